"""Training and evaluation from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.bright_discs import SIDE, bright_discs
from training.command_line import invoke

from model_store.training.loop.state import load_state

ROOT = Path(__file__).parents[2]
QUICK = ["--stages", f"{SIDE}:1", "--batch", "4", "--batch-frame", f"{SIDE}", "--threads", "1"]
SMALL = ["--prompts", "2", "--passes", "1"]


@pytest.fixture
def packed(tmp_path):
    bright_discs(8, seed=0).save(tmp_path / "packed")
    return tmp_path / "packed"


def test_photos_are_packed_and_trained_on(data, tmp_path):
    out = tmp_path / "run"

    packing = invoke("pack", "--data", data, "--out", tmp_path / "packed")
    training = invoke("train", "--packed", tmp_path / "packed", "--out", out, "--steps", 1, *QUICK, *SMALL)

    assert packing.exit_code == 0, packing.output
    assert "4 photos with 4 masks" in packing.stdout
    assert training.exit_code == 0, training.output
    assert {path.name for path in out.iterdir()} == {"state.pt", "edgesam.pth", "log.csv", "curves.svg", "config.json"}
    assert json.loads((out / "config.json").read_text())["steps"] == 1


def test_photos_are_read_while_training(data, tmp_path):
    result = invoke("train", "--data", data, "--workers", 0, "--out", tmp_path / "run", "--steps", 1, *QUICK, *SMALL)

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "100:1"], "multiples of 32"),
        (["--prompts", "3"], "even number"),
        (["--continue", "--from", "x"], "give one of them"),
        (["--data", "x"], "--packed or --data"),
        (["--minutes", "0"], "--minutes or --steps"),
    ],
)
def test_what_makes_no_run_is_refused_in_one_line(arguments, message, packed, tmp_path):
    result = invoke("train", "--packed", packed, "--out", tmp_path / "run", *arguments)

    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_run_without_a_state_cannot_be_continued(packed, tmp_path):
    result = invoke("train", "--packed", packed, "--out", tmp_path / "run", "--continue", "--steps", 1, *QUICK, *SMALL)

    assert result.exit_code == 1
    assert "holds no state.pt" in result.output


def test_data_and_states_travel_in_pieces(data, packed, tmp_path):
    invoke("train", "--packed", packed, "--out", tmp_path / "run", "--steps", 1, *QUICK, *SMALL)

    there = invoke("pieces", data, "--out", tmp_path / "parts", "--mebibytes", 1)
    back = invoke("pieces", tmp_path / "parts", "--join", "--out", tmp_path / "copy")
    state = invoke("pieces", tmp_path / "run", "--out", tmp_path / "state")
    arguments = [
        "--packed",
        packed,
        "--out",
        tmp_path / "on",
        "--from",
        tmp_path / "state",
        "--steps",
        1,
        *QUICK,
        *SMALL,
    ]
    continued = invoke("train", *arguments)

    for result in (there, back, state, continued):
        assert result.exit_code == 0, result.output
    for path in data.rglob("*.*"):
        assert (tmp_path / "copy" / path.relative_to(data)).read_bytes() == path.read_bytes()
    assert "2 steps" in continued.stdout


def test_two_processes_train_together(packed, tmp_path):
    """As on two GPUs, with gloo instead of NCCL: each takes half of the batch, and both end with the same weights."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model_store",
        "train", "--packed", packed, "--out", tmp_path / "run", "--steps", "2", *QUICK, *SMALL,
    ]  # fmt: skip

    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    state = load_state(tmp_path / "run")
    assert state["step"] == 2
    assert state["images"] == 2 * 4, "a batch of 4 in two steps, half of it in each process"
    assert done.stdout.count("weights are in") == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def test_the_granularity_module_is_trained_on_a_frozen_encoder(packed, tmp_path):
    invoke("train", "--packed", packed, "--out", tmp_path / "run", "--steps", 1, *QUICK, *SMALL)

    result = invoke(
        "granularity", tmp_path / "run" / "edgesam.pth", "--packed", packed, "--out", tmp_path / "boxes",
        "--steps", 2, *QUICK,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    weights = torch.load(tmp_path / "boxes" / "edgesam.pth", weights_only=True)
    assert {key.split(".")[0] for key in weights} == {"fpn", "rpn_head"}
