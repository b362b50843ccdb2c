"""Service processes that the tests of the API share, one for each set of settings: a start takes seconds."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.redis_server import RedisServer
from support.replica_clients import Clients, two_replicas
from support.service_client import open_client
from support.service_process import ServiceProcess

# On a busy machine Redis may answer late. The tests of the cache check the timeouts.
LONG_REDIS_TIMEOUTS = {
    "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
    "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
    "EDGESAM_REDIS_LOCK_TTL_S": "60",
    "EDGESAM_REDIS_BREAKER_OPEN_S": "0.05",
    "EDGESAM_MASK_STORE_TIMEOUT_S": "5",
}


TOOL_KEY = "a key of at least sixteen characters"


@pytest.fixture(scope="session")
def client(service_url: str) -> Iterator[httpx.Client]:
    """A client of the process with default settings, for tests that leave only images and masks of their own."""
    with open_client(service_url) as client:
        yield client


@pytest.fixture(scope="session")
def limited(artifact: Path) -> Iterator[ServiceProcess]:
    """A process with low limits: one upload and one prompt request at a time, and one mask for refinement."""
    settings = {
        "EDGESAM_MAX_EMBED_REQUESTS": "1",
        "EDGESAM_MAX_SEGMENT_REQUESTS": "1",
        "EDGESAM_MAX_IMAGE_BYTES": "60000",
        "EDGESAM_MAX_IMAGE_PIXELS": "1000000",
        "EDGESAM_MAX_REQUEST_BYTES": "5000",
        "EDGESAM_MAX_PROMPTS": "4",
        "EDGESAM_MASK_MEMORY_BYTES": "300000",
    }
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service:
        yield service


@pytest.fixture(scope="session")
def limited_client(limited: ServiceProcess) -> Iterator[httpx.Client]:
    """A client of `limited`."""
    with open_client(limited.url) as client:
        yield client


@pytest.fixture(scope="session")
def replicas(artifact: Path, redis_server: RedisServer) -> Iterator[Clients]:
    """Clients of two replicas on one Redis."""
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": redis_server.url, **LONG_REDIS_TIMEOUTS}
    with two_replicas(settings, settings) as clients:
        yield clients


@pytest.fixture(scope="session")
def short_timeouts(artifact: Path, redis_server: RedisServer) -> Iterator[httpx.Client]:
    """A client of a replica whose timeouts are too short for any work: 1 ms for inference, 0.3 s for a body."""
    settings = {
        "EDGESAM_REDIS_URL": redis_server.url,
        "EDGESAM_BODY_TIMEOUT_S": "0.3",
        "EDGESAM_EMBED_TIMEOUT_S": "0.001",
        "EDGESAM_SEGMENT_TIMEOUT_S": "0.001",
    }
    with (
        ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **LONG_REDIS_TIMEOUTS, **settings}) as service,
        open_client(service.url) as client,
    ):
        yield client


@pytest.fixture
def next_seed(request: pytest.FixtureRequest) -> int:
    """A seed derived from the test's name, for images that no other test has embedded."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(scope="session")
def tool_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which `tools` reads Label Studio's files."""
    return tmp_path_factory.mktemp("label-studio") / "files"


@pytest.fixture(scope="session")
def tools_log(artifact: Path, tool_files: Path) -> Iterator[ServiceProcess]:
    """A process with all adapters, and two folders of Label Studio's files. It needs `TOOL_KEY`."""
    more_files = tool_files.parent / "more files"
    for folder in (tool_files, more_files):
        folder.mkdir()
    settings = {
        "EDGESAM_ADAPTERS": "label-studio, roboflow,x-anylabeling,cvat",
        "EDGESAM_LABEL_STUDIO_FILES": f"{tool_files}:{more_files}",
        "EDGESAM_API_KEYS": f'["{TOOL_KEY}"]',
        "EDGESAM_MAX_IMAGE_BYTES": "400000",
        "EDGESAM_MAX_REQUEST_BYTES": "100000",
        "EDGESAM_MAX_PROMPTS": "4",
    }
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service:
        yield service


@pytest.fixture(scope="session")
def tools(tools_log: ServiceProcess) -> Iterator[httpx.Client]:
    """A client of `tools_log`. It sends the required `TOOL_KEY` as most of the tools do."""
    with open_client(tools_log.url, headers={"Authorization": f"Bearer {TOOL_KEY}"}) as client:
        yield client
