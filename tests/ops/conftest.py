"""Tests of what operators and users install: images, manifests, rules, boards and the packed clients.

Those tools are many and few machines have them, so a plain `pytest` leaves this folder out; `make ops-test` installs
them and comes in.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
collect_ignore_glob = [] if "OPS_TEST" in os.environ else ["*"]


@pytest.fixture(scope="session", autouse=True)
def _tools_on_path() -> None:
    """hadolint, checkov and kubernetes-validate lie in an environment of their own."""
    os.environ["PATH"] = f"{ROOT / '.venv' / 'ops' / 'bin'}{os.pathsep}{os.environ['PATH']}"
