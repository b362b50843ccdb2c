"""The Python client as a package of its own, installed in a fresh environment without the service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.sample_images import FOLDER
from support.service_process import ROOT

from service import __version__
from service.client import Client

PROJECT = ROOT / "service" / "client"
SAMPLE, POINT = FOLDER / "dahlia.jpg", (270, 210)
INSTALL_WAIT_S, WAIT_S = 300.0, 60.0
SCRIPT = """
import json, sys
import edgesam_client

with edgesam_client.Client(sys.argv[1]) as client:
    image = client.embed(sys.argv[2])
    mask = client.segment(image, points=(int(sys.argv[3]), int(sys.argv[4]))).best
    print(json.dumps([edgesam_client.__version__, image.image_hash, mask.counts, int(mask.pixels.sum())]))
"""


def run(*command: object, wait_s: float = WAIT_S, **environment: str) -> str:
    """Run a command outside the checkout. Return what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGESAM_", "PYTHON"))}
    process = subprocess.run(
        [*map(str, command)],
        cwd="/",
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=wait_s,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def sources() -> set[Path]:
    return {path for path in PROJECT.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    before = sources()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, PROJECT, wait_s=INSTALL_WAIT_S)
    assert sources() == before  # the build leaves nothing behind
    (wheel,) = folder.glob("edgesam_client-*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the client's wheel and its extra `cli`."""
    return installed(wheel, tmp_path_factory.mktemp("with-cli"), "[cli]")


@pytest.fixture(scope="module")
def programs_without_cli(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the client's wheel alone."""
    return installed(wheel, tmp_path_factory.mktemp("without-cli"), "")


def installed(wheel: Path, folder: Path, extra: str) -> Path:
    """Install the wheel into a fresh environment, without a compiler. Return its folder of programs."""
    run(sys.executable, "-m", "venv", folder, wait_s=INSTALL_WAIT_S)
    run(folder / "bin" / "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}{extra}", wait_s=INSTALL_WAIT_S)
    return folder / "bin"


def packages(programs: Path) -> set[str]:
    """Names of the installed packages, without pip itself."""
    listed = json.loads(run(programs / "pip", "list", "--format", "json"))
    return {package["name"] for package in listed} - {"pip", "setuptools", "wheel"}


def test_the_library_is_at_most_ten_packages_and_the_command_eighteen(programs, programs_without_cli):
    library, command = packages(programs_without_cli), packages(programs)

    assert {"edgesam-client", "httpx", "numpy", "pillow"} <= library < command
    assert {"typer", "rich"} <= command - library
    assert len(library) <= 10
    assert len(command) <= 18
    assert not command & {"edgesam-service", "fastapi", "onnxruntime", "pycocotools", "opencv-python-headless"}


def test_the_module_segments_like_the_one_in_the_service(programs_without_cli, bundled_url):
    python = programs_without_cli / "python"
    version, image_hash, counts, area = json.loads(run(python, "-c", SCRIPT, bundled_url, SAMPLE, *POINT))

    with Client(bundled_url) as client:
        image = client.embed(SAMPLE)
        expected = client.segment(image, points=POINT).best
    assert version == __version__
    assert (image_hash, counts, area) == (image.image_hash, expected.counts, expected.area)


def test_the_command_writes_a_cut_out(programs, bundled_url, tmp_path):
    cut = tmp_path / "cut.png"

    said = run(programs / "edgesam-client", SAMPLE, "--point", "270,210", "-o", cut, EDGESAM_URL=bundled_url)

    with Client(bundled_url) as client:
        expected = client.segment(client.embed(SAMPLE), points=POINT, cleanup="auto").best
    with Image.open(cut) as written:
        alpha = np.asarray(written)[:, :, 3]
    assert f"written  {cut}" in said
    assert np.array_equal(alpha == 255, expected.pixels)


def test_without_the_extra_the_command_names_what_is_missing(programs_without_cli):
    ran = subprocess.run(
        [programs_without_cli / "edgesam-client", "--help"], cwd="/", capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1
    assert "pip install httpx typer rich" in ran.stderr


@pytest.mark.parametrize("command", [("edgesam-client",), ("python", "-m", "edgesam_client")])
def test_the_help_names_the_command_as_it_was_called(programs, command):
    said = run(programs / command[0], *command[1:], "--help")

    assert f"Usage: {' '.join(command)} [OPTIONS]" in said
    assert "EDGESAM_API_KEY" in said
