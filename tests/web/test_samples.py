"""The sample images: credited, light, all of them offered, and cut out well by the bundled model."""

import cv2
import httpx
import numpy as np
import pytest
from pycocotools import mask as coco
from support.sample_images import FOLDER, LIST, sample_images

SAMPLES = sample_images()
FREE_LICENCES = {"CC0 1.0", "CC BY 2.0", "CC BY 4.0", "public domain", "no known copyright restrictions"}
MOST_BYTES = 90_000
MOST_BYTES_TOGETHER = 400_000  # each wheel and each container image carries them

# The object that each prompt means, drawn by hand: its box in pixels of the image, and its share of the image's area.
OBJECTS = {
    "dahlia.jpg": ((169, 85, 446, 360), 0.215),
    "pagoda.jpg": ((70, 27, 370, 403), 0.245),
    "dogs.jpg": ((222, 320, 324, 472), 0.033),
    "drum.jpg": ((12, 346, 298, 530), 0.098),
    "coins.jpg": ((189, 169, 236, 216), 0.0155),
}
LEAST_BOX_IOU = 0.8
AREA_TOLERANCE = 0.2
MOST_PIECES = 8
LEAST_LARGEST_PIECE = 0.98


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_each_sample_is_light_and_free_and_says_whose_it_is(sample):
    assert sample.licence in FREE_LICENCES
    assert all((sample.title, sample.credit, sample.changes))
    assert sample.licence_url.startswith("https://")
    assert sample.source.startswith("https://")
    assert sample.path.stat().st_size <= MOST_BYTES
    assert max(sample.size) <= 800


def test_no_image_lies_there_without_an_entry():
    assert {path.name for path in FOLDER.iterdir()} == {LIST.name, *(sample.file for sample in SAMPLES)}
    assert 4 <= len(SAMPLES) <= 6
    assert sum(sample.path.stat().st_size for sample in SAMPLES) < MOST_BYTES_TOGETHER


def test_the_page_offers_all_samples_in_their_order_and_credits_them(playground):
    images = playground.page.locator("[data-sample] img")
    words = playground.page.inner_text(".credits")

    offered = images.evaluate_all(
        "(images) => images.map(({ alt, parentElement }) => [parentElement.dataset.sample, alt])"
    )
    assert offered == [[sample.file, sample.title] for sample in SAMPLES]
    assert all(sample.credit in words and sample.licence in words for sample in SAMPLES)
    images.last.evaluate("(image) => image.decode()")
    assert images.evaluate_all("(images) => images.every(({ naturalWidth }) => naturalWidth > 0)")


def test_the_page_links_to_the_credits_in_full(playground):
    address = playground.page.locator(".credits a").evaluate("(link) => link.href")

    assert httpx.get(address, trust_env=False).content == LIST.read_bytes()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_each_sample_opens_with_one_press(playground, sample):
    playground.open_sample(sample.file)

    width, height = sample.size
    assert playground.page.text_content("#image-name") == sample.file
    assert playground.page.text_content("#image-size") == f"{width} × {height}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_the_bundled_model_cuts_out_one_clear_object_of_each_sample(bundled_url, sample):
    mask = best_mask(bundled_url, sample)

    box, share = OBJECTS[sample.file]
    count, _, pieces, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    x, y, width, height, area = max(pieces[1:], key=lambda piece: piece[cv2.CC_STAT_AREA])
    assert all(mask[point["y"], point["x"]] for point in sample.prompt.get("points", []))
    assert box_iou((x, y, x + width, y + height), box) >= LEAST_BOX_IOU
    assert mask.mean() == pytest.approx(share, rel=AREA_TOLERANCE)
    assert count - 1 <= MOST_PIECES
    assert area / mask.sum() >= LEAST_LARGEST_PIECE


def test_every_sample_has_its_object_described():
    assert set(OBJECTS) == {sample.file for sample in SAMPLES}


def best_mask(url, sample):
    """The first mask (H, W) bool that the service answers to the sample's prompt."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        image_hash = client.post("/embed", content=sample.path.read_bytes()).raise_for_status().json()["image_hash"]
        body = {"image_hash": image_hash, "prompts": [sample.prompt]}
        (result,) = client.post("/segment", json=body).raise_for_status().json()["results"]
    return coco.decode(result["masks"][0]["rle"]).astype(bool)


def box_iou(first, second):
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both)
