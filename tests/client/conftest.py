"""Both clients, and the processes they talk to."""

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.client_kinds import KEY, Awaited, Connect
from support.service_process import ServiceProcess

from service.client import Client


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind; they are closed at the end."""
    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Any:
            client = request.param(*arguments, **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def client(connect: Connect, service_url: str) -> Any:
    """Of the process with default settings."""
    return connect(service_url)


@pytest.fixture(scope="session")
def narrow(artifact: Path) -> Iterator[ServiceProcess]:
    """A service that needs a key, takes one upload of 100 kB at a time, and keeps three images in memory."""
    settings = {
        "EDGESAM_API_KEYS": f'["{KEY}"]',
        "EDGESAM_MAX_EMBED_REQUESTS": "1",
        "EDGESAM_MAX_IMAGE_BYTES": "100000",
        "EDGESAM_MEMORY_CACHE_BYTES": str(16 * 1024 * 1024),
    }
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service:
        yield service


@pytest.fixture
def next_seed(request: pytest.FixtureRequest) -> int:
    """A number of this test alone, for images that no other test has embedded."""
    return zlib.crc32(request.node.nodeid.encode())
