"""A browser for each room, the service of the bundled model, and files to open."""

import json
import os
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from support.browser import DECODING_KEY, Playground, needed_program, open_browser
from support.noise_images import noise_file
from support.ranked_model import with_ranking
from support.service_process import ROOT, ServiceProcess

from service.mask_rules import Ranking
from service.settings import BUNDLED_MODEL

AXE = "axe-core@4.10.3"
NPM_TIMEOUT_S = 60

Visit = Callable[..., Playground]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: it would stand in the way of asyncio tests elsewhere."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def bundled_url() -> Iterator[str]:
    """The service with default settings, with the bundled model."""
    with ServiceProcess({}) as service:
        yield f"{service.url}/"


@pytest.fixture(scope="session")
def browser_runtime() -> Path:
    """What `make browser-runtime` has fetched; as with programs, CI has to have it."""
    folder = ROOT / "build" / "browser-runtime"
    if not folder.exists():
        reason = "there is no onnxruntime-web: make browser-runtime"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def decoding_url(browser_runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service that offers to decode in the browser, to those who have `DECODING_KEY`.

    The bundled model has a ranking rule here in which every term counts.
    """
    rule = Ranking(bias=(0.1, 0.0, 0.02, 0.0), stability=0.5, predicted_iou=0.3)
    settings = {
        "EDGESAM_MODEL_DIR": str(with_ranking(BUNDLED_MODEL, tmp_path_factory.mktemp("ranked") / "model", rule)),
        "EDGESAM_BROWSER_RUNTIME_DIR": str(browser_runtime),
        "EDGESAM_API_KEYS": json.dumps([DECODING_KEY]),
    }
    with ServiceProcess(settings) as service:
        yield f"{service.url}/"


@pytest.fixture
def visit(browser: Browser, bundled_url: str) -> Iterator[Visit]:
    """Open the page in a window of its own; its console must stay empty of errors.

    `key` is the API key that was typed in before. `cores` is the number of processor cores that the page sees.
    """
    visits: list[Playground] = []

    def open_page(*, url: str = bundled_url, key: str = "", cores: int = 0, **options: Any) -> Playground:
        settings = {"viewport": {"width": 1100, "height": 720}, **options}
        context = browser.new_context(**settings)
        if key:
            context.add_init_script(f"sessionStorage.setItem('edgesam-api-key', {json.dumps(key)})")
        if cores:
            count = f"{{ value: {cores} }}"
            context.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {count})")
        playground = Playground(context, url)
        visits.append(playground)
        playground.visit()
        return playground

    yield open_page
    errors = [error for playground in visits for error in playground.errors]
    for playground in visits:
        playground.page.context.close()
    assert errors == []


@pytest.fixture
def playground(visit: Visit) -> Playground:
    """The page in a window of common size."""
    return visit()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is quickly drawn, and encoded for the first test only."""
    path = tmp_path_factory.mktemp("images") / "small.png"
    path.write_bytes(noise_file((240, 320), 1))
    return path


@pytest.fixture
def photo(tmp_path: Path, next_seed: int) -> Path:
    """An image that the service has not seen."""
    path = tmp_path / "photo.png"
    path.write_bytes(noise_file((240, 320), next_seed))
    return path


@pytest.fixture
def next_seed(request: pytest.FixtureRequest) -> int:
    """A number of this test alone."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from the npm registry."""
    npm = needed_program("npm")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, cwd=folder, timeout=NPM_TIMEOUT_S, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        source = package.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()
