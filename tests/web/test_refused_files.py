"""Files that the browser shows and the service refuses: the page sends a copy of what it shows."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.browser import Playground
from support.noise_images import noise_image
from support.service_process import ServiceProcess

MIDDLE = (0.5, 0.45)
MAX_PIXELS = 60_000
MAX_BYTES = 40_000
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100">
  <rect width="200" height="100" fill="#{ground:06x}"/><circle cx="140" cy="50" r="30" fill="#e03020"/></svg>"""


@pytest.fixture(scope="module")
def strict_url() -> Iterator[str]:
    """A service that takes small images only."""
    settings = {"EDGESAM_MAX_IMAGE_PIXELS": str(MAX_PIXELS), "EDGESAM_MAX_IMAGE_BYTES": str(MAX_BYTES)}
    with ServiceProcess(settings) as service:
        yield f"{service.url}/"


def uploads(playground: Playground) -> list[tuple[str, int]]:
    """Content type and number of bytes of each uploaded file."""
    return [
        (request.headers["content-type"], len(request.post_data_buffer or b""))
        for request in playground.sent("POST", "/embed")
    ]


def without_refusals(playground):
    """Forget that the browser wrote down the refused upload."""
    assert all("415" in error and "/embed" in error for error in playground.errors)
    playground.errors.clear()


def test_an_svg_image_is_sent_as_png_in_its_proportions(playground, bundled_url, tmp_path, next_seed):
    path = tmp_path / "drawing.svg"
    path.write_text(SVG.format(ground=next_seed % 0x303030))

    playground.open_file(path)
    playground.wait_shown("drawing.png")
    playground.click(*playground.place(140 / 200 * 1024, 512 / 2))
    (annotation,) = json.loads(playground.save("#save-coco-rle"))["annotations"]

    ((kind, _),) = uploads(playground)
    mask = coco.decode(coco.frPyObjects(annotation["segmentation"], 512, 1024)).astype(bool)
    y, x = np.indices((512, 1024))
    circle = np.hypot(x - 716.8, y - 256) < 153.6
    assert kind == "image/png"
    assert playground.page.text_content("#image-size") == "1024 × 512"
    assert (mask & circle).sum() / (mask | circle).sum() > 0.9  # the coordinates are those of the user's image


def test_a_format_that_only_the_browser_reads_is_sent_as_png(playground, tmp_path, next_seed):
    path = tmp_path / "favicon.ico"
    Image.fromarray(noise_image((64, 64), next_seed)).save(path, sizes=[(64, 64)])

    playground.open_file(path)
    playground.click(*MIDDLE)

    assert [kind for kind, _ in uploads(playground)][-1] == "image/png"
    assert playground.page.text_content("#image-size") == "64 × 64"
    without_refusals(playground)


def test_an_image_of_too_many_pixels_is_shown_and_sent_as_a_smaller_copy(visit, strict_url, tmp_path, next_seed):
    playground = visit(url=strict_url)
    path = tmp_path / "wide.jpg"
    Image.fromarray(noise_image((300, 600), next_seed)).save(path, quality=30)

    playground.page.set_input_files("#file", path)
    playground.page.locator("#notice", has_text="smaller copy").wait_for()
    playground.wait_ready()
    playground.click(*MIDDLE)
    (image,) = json.loads(playground.save("#save-coco"))["images"]
    body = playground.segment_bodies()[-1]
    answer = httpx.post(f"{strict_url}segment", json=body, timeout=60, trust_env=False).json()

    ((_, size),) = uploads(playground)
    assert size <= MAX_BYTES
    assert (answer["width"], answer["height"]) == (image["width"], image["height"])
    assert 0.5 * MAX_PIXELS < image["width"] * image["height"] <= MAX_PIXELS
    assert image["width"] / image["height"] == pytest.approx(2, rel=0.02)
    assert playground.page.text_content("#image-size") == f"{image['width']} × {image['height']}"


def test_a_file_of_too_many_bytes_is_sent_in_the_same_size_with_fewer(visit, strict_url, tmp_path, next_seed):
    playground = visit(url=strict_url)
    path = tmp_path / "heavy.png"
    smooth = np.asarray(Image.fromarray(noise_image((24, 32), next_seed)).resize((256, 192), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(next_seed).integers(-4, 5, smooth.shape)
    Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(path)
    assert path.stat().st_size > MAX_BYTES

    playground.open_file(path)
    playground.click(*MIDDLE)

    ((kind, size),) = uploads(playground)
    assert kind == "image/jpeg"
    assert size <= MAX_BYTES
    assert playground.page.text_content("#image-size") == "256 × 192"
    assert playground.image_names == ["heavy.jpg"]
    assert not playground.page.locator("#notice").is_visible()


def test_a_copy_survives_a_reload(playground, tmp_path, next_seed):
    path = tmp_path / "drawing.svg"
    path.write_text(SVG.format(ground=next_seed % 0x303030))
    playground.open_file(path)
    playground.click(*MIDDLE)
    playground.page.wait_for_function(
        "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    )  # everything is stored

    playground.visit()
    playground.wait_shown("drawing.png")
    again = playground.page.is_enabled("#save-mask")
    playground.open_file(path)  # the same file, which is open already

    assert again
    assert playground.image_names == ["drawing.png"]
    assert len(uploads(playground)) == 1
