"""The documents tell the truth about settings, metrics, problems and commands, and their examples run."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.doc_tables import metric_rows, problem_rows, setting_rows
from typer.main import get_command
from typer.testing import CliRunner

from service.client.command import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("row", [*setting_rows(), *metric_rows(), *problem_rows()])
def test_readme_has_the_row_that_the_code_has(row: str):
    assert row in README, "print the tables anew: python tests/support/doc_tables.py"


def test_readme_names_no_setting_that_is_gone():
    known = {re.search(r"`(EDGESAM_\w+)`", row)[1] for row in setting_rows()}
    known |= {name for parameter in get_command(app).params for name in [parameter.envvar] if name}  # the client's

    named = set(re.findall(r"EDGESAM_[A-Z_]+", README))

    assert named <= known


def test_readme_has_no_more_rows_than_the_code():
    known = {*setting_rows(), *metric_rows(), *problem_rows()}

    rows = {line for line in README.splitlines() if re.match(r"\| (`EDGESAM_|`edgesam_|\d{3} \| `)", line)}

    assert rows == known


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [README, (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "DECISIONS.md").read_text()]

    named = {name for text in documents for name in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}

    assert {"serve", "test", "check"} <= named <= targets


def run_example(number: int, service_url: str, folder: Path) -> dict:
    """Run a Python example of the README on a photo of its own; the names it leaves."""
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    photo = folder / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(photo)
    example = example.replace("http://127.0.0.1:8000", service_url).replace("photo.jpg", str(photo))
    names: dict = {}
    exec(example, names)
    return names


def test_the_example_with_a_plain_http_client_runs(service_url: str, tmp_path: Path):
    names = run_example(0, service_url, tmp_path)

    assert [mask.shape for mask in names["masks"]] == [(96, 128), (96, 128)]
    assert names["refined"]["results"][0]["masks"][0]["rle"]["size"] == [96, 128]


def test_the_example_with_our_client_runs(service_url: str, tmp_path: Path):
    names = run_example(1, service_url, tmp_path)

    assert names["mask"].pixels.shape == names["refined"].pixels.shape == (96, 128)


def test_the_command_lines_of_the_client_are_valid(service_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [line.split("#")[0] for line in re.findall(r"python -m service\.client (.*)", README)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/other.jpg"):
        Image.new("RGB", (451, 300), (90, 120, 60)).save(tmp_path / name)

    results = [CliRunner().invoke(app, [*line.split(), "--url", service_url]) for line in lines]

    assert len(lines) == 3
    assert [result.exit_code for result in results] == [0, 0, 0], [result.output for result in results]
    assert (tmp_path / "cut.png").exists()


def test_the_commands_for_keys_make_a_file_that_is_right(tmp_path: Path):
    lines = [line for line in README.splitlines() if line.startswith("python -m service.keys")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert len(lines) == 3
    assert done.returncode == 0, done.stderr
    assert [key["name"] for key in json.loads((tmp_path / "keys.json").read_text())] == ["web-1", "ops"]


def test_the_curl_examples_of_the_readme_are_valid_requests(service_url: str):
    picture = io.BytesIO()
    Image.new("RGB", (1600, 1200), (90, 120, 60)).save(picture, "JPEG")
    embedded = httpx.post(f"{service_url}/embed", files={"image": picture.getvalue()}, timeout=60).json()
    bodies = re.findall(r"-d '(\{.*?\})'", README)

    answers = [
        httpx.post(f"{service_url}/segment", content=body.replace("9f86d0…", embedded["image_hash"]), timeout=60)
        for body in bodies
    ]

    assert len(bodies) == 2
    assert [answer.status_code for answer in answers] == [200, 200]
