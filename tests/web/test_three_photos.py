"""A fresh user exports the objects of three photos as one COCO file, with everything mode and without help."""

import json
from collections import Counter

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco
from support.browser import WAIT_MS, content_of
from support.ranked_model import with_everything
from support.sample_images import sample_images
from support.service_process import ServiceProcess

from service.mask_rules import EverythingDefaults
from service.settings import BUNDLED_MODEL

PHOTOS = [sample.path for sample in sample_images() if sample.path.name in {"dahlia.jpg", "dogs.jpg", "coins.jpg"}]
# To open the photos, per photo to find its objects and to add them, to go on twice, and to export.
MOST_CLICKS = 1 + 2 * len(PHOTOS) + len(PHOTOS) - 1 + 1
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

# Counts what a person presses: not the clicks of scripts, nor those that keys cause.
COUNT_CLICKS = """
    window.presses = 0;
    addEventListener("click", ({ isTrusted, detail }) => { presses += isTrusted && detail > 0 ? 1 : 0; }, true);"""


@pytest.fixture(scope="module")
def quick_url(tmp_path_factory):
    """The service with the bundled model and a coarse grid of points."""
    defaults = EverythingDefaults(
        points_per_side=5, pred_iou_thresh=0.5, stability_score_thresh=0.5, quality="stability"
    )
    model = with_everything(BUNDLED_MODEL, tmp_path_factory.mktemp("quick") / "model", defaults)
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(model)}) as service:
        yield f"{service.url}/"


@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 800}}, PHONE], ids=["desktop", "phone"])
def test_a_fresh_user_exports_all_objects_of_three_photos_with_ten_clicks(visit, quick_url, options):
    playground = visit(url=quick_url, **options)
    page = playground.page
    page.evaluate(COUNT_CLICKS)
    hints = []

    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(PHOTOS)
    for photo in PHOTOS:
        playground.wait_shown(photo.name)
        page.get_by_role("button", name="Find all objects").click()
        page.locator("#found").wait_for(timeout=2 * WAIT_MS)
        hints.append(page.inner_text("#found p"))
        page.get_by_role("button", name="Add all").click()
        if photo != PHOTOS[-1]:
            page.get_by_role("button", name="Next image").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="COCO JSON").click()
    presses = page.evaluate("presses")
    dataset = json.loads(content_of(waiting.value))

    assert presses <= MOST_CLICKS
    assert all(("Tab" in hint) == ("larger" in hint) for hint in hints)  # no half sentence where keys are hidden
    assert waiting.value.suggested_filename == "3-images-coco.json"
    assert [image["file_name"] for image in dataset["images"]] == [photo.name for photo in PHOTOS]
    for image, request in zip(dataset["images"], playground.sent("POST", "/segment/everything"), strict=True):
        expected = areas_of_found_masks(quick_url, json.loads(request.post_data))
        exported = [each for each in dataset["annotations"] if each["image_id"] == image["id"]]
        assert Counter(area_of(each, image) for each in exported) == expected
        assert expected.total() > 1


def areas_of_found_masks(url, body):
    """Areas of the masks that the service finds, in pixels."""
    answer = httpx.post(f"{url}segment/everything", json=body, timeout=60, trust_env=False)
    return Counter(int(coco.area(mask["segmentation"])) for mask in answer.json()["masks"])


def area_of(annotation, image):
    """Area of an annotation's polygons, in pixels."""
    parts = coco.frPyObjects(annotation["segmentation"], image["height"], image["width"])
    return int(np.count_nonzero(coco.decode(coco.merge(parts))))
