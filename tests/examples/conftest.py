"""The examples run in environments of their own: `make examples-test` installs what they need below build/examples."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.service_process import ROOT, ServiceProcess

collect_ignore_glob = [] if "EXAMPLES_TEST" in os.environ else ["*"]

EXAMPLES = ROOT / "examples"
PACKAGES = ("fastapi", "uvicorn", "python-multipart", "matplotlib", "nbclient", "ipykernel", "locust")
INSTALL_TIMEOUT_S = 600
RUN_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The address of the service with the bundled model."""
    with ServiceProcess({}) as service:
        yield service.url


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the client's package and what the examples import, without the service."""
    folder = ROOT / "build" / "examples"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_TIMEOUT_S)
    # A copy, because building in place would leave files in the repository.
    client = tmp_path_factory.mktemp("client") / "service"
    subprocess.run(["cp", "-r", str(ROOT / "service"), str(client)], check=True, timeout=60)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, f"{client / 'client'}[cli]", *PACKAGES], check=True, timeout=INSTALL_TIMEOUT_S)
    return python


@pytest.fixture
def run(python: Path, url: str) -> Callable[..., str]:
    """Run a command of an example in its folder against the service; what it prints."""

    def run(folder: str, arguments: Sequence[str], **environment: str) -> str:
        done = subprocess.run(
            [str(python), *arguments],
            cwd=EXAMPLES / folder,
            env={**os.environ, "EDGESAM_URL": url, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
