"""The script that measures serving on a GPU, at tiny size on this machine's CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.bench.report import markdown

SCRIPTS = Path(__file__).parent / "gpu_bench"
# Limits that no busy machine reaches; the run is as short as it can be.
TINY = ["--device", "cpu", "--seconds", 1200, "--rounds", 1, "--batches", 1, "--cases", 1, "--clients", 1, 4]
COUNTED = ["--client-seconds", 0.05, "--threads", 1]


def script(name, *arguments):
    """Run a script in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPTS / name, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module", params=["torch", "service"])
def measured(request, tmp_path_factory):
    """The JSON of a run with one of both backends."""
    out = tmp_path_factory.mktemp("gpu") / "bench-cuda.json"
    done = script("measure.py", *TINY, *COUNTED, "--backend", request.param, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, json.loads(out.read_text())


def test_the_run_agrees_with_the_official_outputs(measured):
    backend, made = measured
    values = made["values"]

    assert made["errors"] == {}
    assert values["fixtures.float32.embedding_difference"] < 1e-4
    assert values["fixtures.float32.logits_difference"] < 1e-4
    assert values["fixtures.float32.mask_iou_least"] > 0.999
    assert values["fixtures.float16.mask_iou_mean"] > 0.98
    assert "fixtures.float16.embedding_difference" not in values  # torch takes a minute for it on a CPU
    if backend == "service":
        assert values["served.tokens_difference"] < 1e-3
        assert values["served.mask_iou_least"] > 0.999


def test_the_json_is_a_row_of_the_benchmark(measured):
    backend, made = measured

    page = markdown({**made, "where": "", "effort": "full", "seconds": 1, "targets": [], "sections": {}})

    (row,) = (line for line in page.splitlines() if line.startswith(f"| {made['provider']} |"))
    encode, click, one, four = row.split("|")[5:9]
    assert all(float(cell.replace(",", "")) > 0 for cell in (encode, click, one, four))
    assert ("in place of ONNX Runtime" in row) == (backend == "torch")
    assert made["values"]["memory.image_mib"] >= (5 if backend == "service" else 8)


def test_a_run_without_time_leaves_a_json_with_what_was_not_done(tmp_path):
    done = script("measure.py", *TINY, "--seconds", 0.01, "--backend", "torch", "--out", tmp_path / "bench.json")

    made = json.loads((tmp_path / "bench.json").read_text())
    assert done.returncode == 1
    assert "StageTimeout" in made["errors"]["load"]


def test_the_pack_holds_the_fixtures_and_refuses_large_ones(tmp_path):
    fixtures = tmp_path / "fixtures"
    fixtures.mkdir()
    for name in ("encoder.npz", "decoder.npz"):
        (fixtures / name).write_bytes(name.encode())

    done = script("pack.py", "--fixtures", fixtures, "--out", tmp_path / "out")
    with (fixtures / "encoder.npz").open("wb") as large:
        large.truncate(17 * 2**20)
    refused = script("pack.py", "--fixtures", fixtures, "--out", tmp_path / "other")

    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        name: name.encode() for name in ("encoder.npz", "decoder.npz")
    }
    assert refused.returncode == 1
    assert "may travel" in refused.stderr
    assert not (tmp_path / "other").exists()
