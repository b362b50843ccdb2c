"""Images that the tests of this room share; built once, and quickly when nothing changed."""

import os
from collections.abc import Callable

import pytest
from support import image_builder

from service import __version__


@pytest.fixture(scope="session")
def revision() -> str:
    """What the images are told to be built from."""
    return "0123456789abcdef"


@pytest.fixture(scope="session")
def build(revision: str) -> Callable[[str], str]:
    """Builds a target; skips where no image can be built, which in CI is a failure."""
    if reason := image_builder.why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    label = "org.opencontainers.image"
    return lambda target: image_builder.build(
        target, labels={f"{label}.version": __version__, f"{label}.revision": revision}
    )


@pytest.fixture(scope="session")
def cpu_image(build: Callable[[str], str]) -> str:
    """The default target."""
    return build("cpu")
