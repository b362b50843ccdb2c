"""Tests of what operators and users install: images, manifests, rules, boards and the Python client; a whole bench.

They need tools that few machines have. A plain `pytest` therefore skips this folder. `make ops-test` installs the tools
and runs it.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
collect_ignore_glob = [] if "OPS_TEST" in os.environ else ["*"]


@pytest.fixture(scope="session", autouse=True)
def _tools_on_path() -> None:
    """Add the virtual environment with hadolint, checkov and kubernetes-validate to PATH."""
    os.environ["PATH"] = f"{ROOT / '.venv' / 'ops' / 'bin'}{os.pathsep}{os.environ['PATH']}"
