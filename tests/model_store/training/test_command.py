"""Training from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.ellipse_photos import write_ellipse_photos
from support.model_store_cli import invoke

from model_store.checkpoint import load_checkpoint, save_checkpoint, seeded_model
from model_store.training.data.set_aside import set_aside_names
from model_store.training.loop.state import load_state
from model_store.training.loop.train_log import read_rows
from model_store.training.resume import BUNDLED_CHECKPOINTS

ROOT = Path(__file__).parents[3]
TINY = ["--windows", "64:2:0.7,128:1:0.3", "--boxes", 1, "--points", 1, "--corrections", "0.5,0.5", "--threads", 1]
TINY += ["--workers", 0]


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_ellipse_photos(tmp_path_factory.mktemp("discs") / "data", 8, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    save_checkpoint(seeded_model(3, "edgesam-lite"), path)
    return path


def train(discs, out, *more):
    return invoke("train", "--data", discs, "--out", out, *TINY, *more)


@pytest.fixture(scope="module")
def trained(discs, checkpoint, tmp_path_factory):
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = train(discs, out, "--validation", discs, "--validation-stride", 4, "--resume", checkpoint, "--steps", 2)
    assert result.exit_code == 0, result.output
    return out


def test_a_run_leaves_state_checkpoints_figures_log_and_curves(trained):
    names = {path.name for path in trained.iterdir()}
    rows = read_rows(trained / "log.csv")

    assert names == {
        "state.pt", "model.safetensors", "best.safetensors", "best.json", "log.csv", "curves.png", "config.json",
    }  # fmt: skip
    assert json.loads((trained / "config.json").read_text())["steps"] == 2
    assert load_checkpoint(trained / "model.safetensors").architecture.name == "edgesam-lite"
    assert 0.0 <= float(rows[-1]["val_box"]) <= 1.0
    assert json.loads((trained / "best.json").read_text())["val_box"] == pytest.approx(float(rows[-1]["val_box"]), 1e-4)


def first_parameter(model):
    return next(iter(model.state_dict().values()))


@pytest.mark.parametrize("kind", [".safetensors", "state folder", ".pth", "bundled name"])
def test_a_run_resumes_from_each_kind_of_source(kind, trained, checkpoint, discs, tmp_path):
    out, begun_with = tmp_path / "run", checkpoint
    if kind == ".safetensors":
        out = trained
    elif kind == "state folder":
        train(discs, out, "--resume", trained, "--steps", 1)
    elif kind == ".pth":
        begun_with = tmp_path / "weights.pth"
        save_checkpoint(seeded_model(4, "edgesam-lite"), begun_with)
        train(discs, out, "--resume", begun_with, "--steps", 1)
    else:
        begun_with = BUNDLED_CHECKPOINTS / "edgesam-lite.safetensors"
        train(discs, out, "--resume", "edgesam-lite", "--steps", 1)

    # The stem is frozen, so it shows the starting weights of the run.
    after = load_checkpoint(out / "model.safetensors")
    assert torch.equal(first_parameter(after), first_parameter(load_checkpoint(begun_with)))
    assert load_state(out).step == {".safetensors": 2, "state folder": 3}.get(kind, 1)


def test_a_run_begins_with_initial_weights_of_another_architecture(discs, tmp_path):
    result = train(discs, tmp_path / "run", "--architecture", "edgesam", "--steps", 1)

    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").architecture.name == "edgesam"


def test_photos_that_are_set_aside_are_not_trained_on(checkpoint, tmp_path):
    data = write_ellipse_photos(tmp_path / "data", 3, seed=0)
    name = min(set_aside_names())
    (data / "images" / "1.png").rename(data / "images" / name)
    lines = data / "annotations.jsonl"
    lines.write_text(lines.read_text().replace("1.png", name))

    result = train(data, tmp_path / "run", "--resume", checkpoint, "--steps", 1)

    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"]["photos"] == 2


def test_a_run_continues_with_the_rest_of_its_budget(trained, discs, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")

    refused = train(discs, out, "--steps", 3)
    used_up = train(discs, out, "--continue", "--steps", 2)
    continued = train(discs, out, "--continue", "--steps", 3)
    again = train(discs, out, "--resume", out, "--steps", 1)

    assert refused.exit_code == 2
    assert "--continue continues it" in " ".join(refused.output.split())
    assert used_up.exit_code == 2
    assert "is used up" in " ".join(used_up.output.split())
    assert "3 steps" in continued.stdout, "2 were done"
    assert "4 steps" in again.stdout, "a budget of its own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", "100:1:1"], "multiple of 64"),
        (["--windows", "many"], "side:batch:share"),
        (["--windows", "64:1:1", "--resume", "edgesam-lite"], "batch norms need statistics"),
        (["--corrections", "0.5,many"], "shares such as 0.4,0.2,0.2,0.2"),
        (["--corrections", "0.5,0.6"], "sum to 1"),
        (["--continue", "--resume", "x"], "give only one of them"),
        (["--continue"], "contains no state.pt"),
        (["--minutes", "0"], "--minutes or --steps"),
        (["--resume", "nothing"], "nor a bundled model (edgesam-lite)"),
        (["--architecture", "vit"], "not a known architecture"),
        (["--architecture", "edgetam"], "edgetam can neither be trained nor be a teacher here"),
        (["--learning-rate", "0"], "above 0"),
        (["--data", "nowhere"], "neither a folder nor a file"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:99"], "cuda:99 cannot be used"),
    ],
)
def test_invalid_options_are_refused_in_one_line(arguments, message, discs, tmp_path):
    result = train(discs, tmp_path / "run", *arguments)

    assert result.exit_code in {1, 2}
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_source_of_another_kind_is_refused_with_what_to_give(trained, checkpoint, discs, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(checkpoint.read_bytes()[:1000])

    results = {
        "give its folder": train(discs, tmp_path / "run", "--resume", trained / "state.pt"),
        "not a readable safetensors file": train(discs, tmp_path / "run", "--resume", broken),
        "leave --architecture out": train(discs, tmp_path / "run", "--resume", trained, "--architecture", "edgesam"),
    }

    for message, result in results.items():
        assert result.exit_code in {1, 2}
        assert message in " ".join(result.output.split())


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def test_a_signal_ends_a_run_in_order(checkpoint, discs, tmp_path):
    """A real process with a loader worker, which gets the signal as well."""
    command = [
        sys.executable, "-m", "model_store", "train", "--data", discs, "--out", tmp_path / "run",
        "--resume", checkpoint, *TINY, "--workers", 1, "--minutes", 30,
    ]  # fmt: skip
    process = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:  # the first row comes with the first step
        lines.append(line)
        if "step 1 " in line:
            os.killpg(process.pid, signal.SIGTERM)
            break
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, "".join(lines) + err
    assert "weights are in" in out
    state = load_state(tmp_path / "run")
    assert state.step >= 1
    assert 0 < state.used_s < 30 * 60
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_two_processes_train_together_and_agree(checkpoint, discs, tmp_path):
    """As on two GPUs, with gloo instead of NCCL."""
    script = Path(__file__).parent / "two_processes.py"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script,
        discs, checkpoint, tmp_path / "run",
    ]  # fmt: skip

    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the same in both") == 1
    assert done.stdout.count("weights are in") == 1
    state = load_state(tmp_path / "run" / "command")
    assert state.step == 1
    assert state.images in {2 * 2, 2 * 1}, "a batch in each process"


def test_the_granularity_module_is_trained_on_a_frozen_encoder(discs, tmp_path):
    save_checkpoint(seeded_model(3), tmp_path / "edgesam.pth")
    quick = ["--data", discs, "--frame-size", 64, "--batch", 2, "--workers", 0, "--threads", 1]

    first = invoke("granularity", tmp_path / "edgesam.pth", *quick, "--out", tmp_path / "boxes", "--steps", 1)
    second = invoke(
        "granularity", tmp_path / "edgesam.pth", *quick, "--out", tmp_path / "more", "--steps", 1, "--resume",
        tmp_path / "boxes",
    )  # fmt: skip
    third = invoke(
        "granularity", tmp_path / "edgesam.pth", *quick, "--out", tmp_path / "third", "--steps", 1, "--resume",
        tmp_path / "boxes" / "granularity.pth",
    )  # fmt: skip

    for result, steps in ((first, 1), (second, 2), (third, 1)):
        assert result.exit_code == 0, result.output
        assert f"{steps} steps" in result.stdout
    weights = torch.load(tmp_path / "boxes" / "granularity.pth", weights_only=True)
    assert {key.split(".")[0] for key in weights} == {"fpn", "rpn_head"}


def test_the_granularity_module_requires_an_encoder_with_stages(checkpoint, discs, tmp_path):
    common = ["--data", discs, "--out", tmp_path / "boxes", "--steps", 1]

    lacking = invoke("granularity", checkpoint, *common)
    odd = invoke("granularity", checkpoint, *common, "--frame-size", 100)

    assert lacking.exit_code == odd.exit_code == 2
    assert "EfficientNet-Lite2" in lacking.output
    assert "multiple of 64" in odd.output
