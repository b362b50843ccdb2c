"""The service with the bundled model, for the installed clients."""

from collections.abc import Iterator

import pytest
from support.service_process import ServiceProcess


@pytest.fixture(scope="session")
def bundled_url() -> Iterator[str]:
    """Address of the service, without a slash at the end."""
    with ServiceProcess({}) as service:
        yield service.url
