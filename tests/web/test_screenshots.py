"""The script that takes the documents' pictures works, and the pictures are light enough for a web page."""

import io

import pytest
from PIL import Image
from support.service_process import ROOT
from tools import screenshots

MOST_BYTES = 300_000


@pytest.mark.parametrize(("name", "size"), [("playground", (1280, 800)), ("playground-phone", (780, 1560))])
def test_the_documents_pictures_are_light_and_as_large_as_the_windows(name, size):
    path = ROOT / "docs" / "images" / f"{name}.png"

    assert path.stat().st_size < MOST_BYTES
    assert Image.open(io.BytesIO(path.read_bytes())).size == size
    assert f"images/{name}.png" in (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.parametrize(("take", "size"), [(screenshots.desktop, (1280, 800)), (screenshots.phone, (780, 1560))])
def test_the_pictures_can_be_taken_anew(browser, bundled_url, take, size):
    picture = Image.open(io.BytesIO(take(browser, bundled_url)))

    assert picture.size == size
