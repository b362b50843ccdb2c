"""The manifests, rendered once."""

from pathlib import Path

import pytest
from support.manifests import Manifests, render_all, why_not


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every overlay and variant as one file."""
    if reason := why_not():
        pytest.skip(reason)
    return render_all(tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="session")
def every(files: dict[str, Path]) -> dict[str, Manifests]:
    """Every overlay and variant as objects."""
    return {name: Manifests(name, path.read_text()) for name, path in files.items()}
