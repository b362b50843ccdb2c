"""The documents tell the truth about settings, metrics, problems and commands, and their examples run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

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
    decisions = [path.read_text() for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    documents = [README, (ROOT / "CONTRIBUTING.md").read_text(), *decisions]

    named = {name for text in documents for name in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}

    assert {"serve", "test", "check"} <= named <= targets


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of somebody who pastes examples: the repository's files, and room for new ones."""
    (tmp_path / "service").symlink_to(ROOT / "service")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_example(number: int, service_url: str) -> dict:
    """Run a Python example of the README; the names it leaves."""
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    names: dict = {}
    exec(example.replace("http://127.0.0.1:8000", service_url), names)
    return names


@pytest.mark.usefixtures("clone")
def test_the_example_with_a_plain_http_client_runs(service_url: str):
    names = run_example(0, service_url)

    assert [mask.shape for mask in names["masks"]] == [(427, 640), (427, 640)]
    assert names["both"]["results"][0]["masks"][0]["rle"]["size"] == [427, 640]


@pytest.mark.usefixtures("clone")
def test_the_example_with_our_client_runs(service_url: str):
    names = run_example(1, service_url)

    assert names["mask"].pixels.shape == names["both"].pixels.shape == (427, 640)


def test_the_command_lines_of_the_client_run(service_url: str, clone: Path):
    lines = [line.split("#")[0] for line in re.findall(r"python -m service\.client (.*)", README)]

    results = [CliRunner().invoke(app, [*line.split(), "--url", service_url]) for line in lines]

    assert len(lines) == 3
    assert [result.exit_code for result in results] == [0, 0, 0], [result.output for result in results]
    assert {path.name for path in clone.iterdir()} == {"service", "cut.png", "mask.png", "whole.png"}


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


def test_the_curl_examples_of_the_readme_run(service_url: str, clone: Path):
    (example,) = re.findall(r"```sh\n(image=.*?)```", README, re.DOTALL)

    done = subprocess.run(
        ["bash", "-euc", example.replace("http://127.0.0.1:8000", service_url)],
        check=True, cwd=clone, env={**os.environ, "no_proxy": "*"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    embedded, segmented = (json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines())
    with Image.open(clone / "mask.png") as mask:
        assert mask.size == (embedded["width"], embedded["height"]) == (640, 427)
    assert segmented["image_hash"] == embedded["image_hash"]
    assert len(segmented["results"][0]["masks"]) == 4
    assert f"{embedded['image_hash'][:4]}…" in example
