"""The settings of the process under which images are decoded."""

import pytest

from service.process import configure_image_libraries


@pytest.fixture(autouse=True)
def _image_libraries() -> None:
    """Configure the image libraries as the service does. pytest resets warning filters, so each test does it again."""
    configure_image_libraries()
