"""The script that takes the screenshots of the documents works, and the files are light enough for a web page."""

import io

import pytest
from PIL import Image
from support.service_process import ROOT
from tools import screenshots

MOST_BYTES = 300_000


@pytest.mark.parametrize(("name", "size"), [("playground", (1280, 800)), ("playground-phone", (780, 1560))])
def test_the_screenshots_of_the_documents_are_light_and_as_large_as_the_windows(name, size):
    path = ROOT / "docs" / "images" / f"{name}.png"

    assert path.stat().st_size < MOST_BYTES
    assert Image.open(io.BytesIO(path.read_bytes())).size == size
    assert f"images/{name}.png" in (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.parametrize(("take", "size"), [(screenshots.desktop, (1280, 800)), (screenshots.phone, (780, 1560))])
def test_the_screenshots_can_be_taken_anew(browser, bundled_url, take, size):
    screenshot = Image.open(io.BytesIO(take(browser, bundled_url)))

    assert screenshot.size == size
