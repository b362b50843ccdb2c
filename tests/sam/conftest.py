"""The settings of the process under which images are decoded."""

import pytest

from service.process import configure_image_libraries


@pytest.fixture(autouse=True)
def _image_libraries() -> None:
    """As at the start of the service. For each test, because pytest takes back the filters of warnings after each."""
    configure_image_libraries()
