"""Container images that the tests of this folder share. They are built once, and unchanged layers are cached."""

import os
from collections.abc import Callable

import pytest
from support import image_builder

from service import __version__


@pytest.fixture(scope="session")
def revision() -> str:
    """The revision label of the images."""
    return "0123456789abcdef"


@pytest.fixture(scope="session")
def build(revision: str) -> Callable[[str], str]:
    """A function that builds a target of the Dockerfile. Without build tools it skips the test, or fails it in CI."""
    if reason := image_builder.why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    label = "org.opencontainers.image"
    return lambda target: image_builder.build(
        target, labels={f"{label}.version": __version__, f"{label}.revision": revision}
    )


@pytest.fixture(scope="session")
def cpu_image(build: Callable[[str], str]) -> str:
    """The image of the default target."""
    return build("cpu")
