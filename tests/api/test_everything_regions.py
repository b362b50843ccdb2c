"""Everything mode over a region: the masks of the cropped file, without those that the edge of the region cuts off."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.noise_images import as_file
from support.sample_images import sample_image
from support.service_client import open_client
from support.service_process import ServiceProcess

from service.settings import BUNDLED_MODEL

EDGE_DISTANCE = 20


@pytest.fixture(scope="module")
def client():
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(BUNDLED_MODEL)}) as service, open_client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def photo():
    with Image.open(sample_image("coins.jpg").path) as image:
        return np.asarray(image.convert("RGB"))


def everything(client, data, **query):
    embedded = client.post("/embed", content=data, params=query)
    assert embedded.status_code == 200, embedded.text
    # A mask that the edge cuts off is dropped before duplicates and small regions are removed. So neither is done here.
    unchanged = {"box_nms_thresh": 1, "min_mask_region_area": 0, "max_masks": 1000}
    body = {"image_hash": embedded.json()["image_id"], "points_per_side": 8, **unchanged}
    response = client.post("/segment/everything", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def pixels_of(record):
    rle = record["segmentation"]
    return coco.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)


def test_a_region_gives_the_masks_of_the_cropped_file_in_pixels_of_the_image(client, photo):
    height, width = photo.shape[:2]
    x0, y0, x1, y1 = width // 6, height // 6, width * 5 // 6, height
    found = everything(client, as_file(photo), region=f"{x0},{y0},{x1},{y1}")
    alone = everything(client, as_file(np.ascontiguousarray(photo[y0:y1, x0:x1])))

    def is_cut(record):
        x, y, w, _ = record["bbox"]
        ends = (x, y, x + w - 1 - (x1 - x0))  # the lower edge is that of the image
        return any(abs(each) <= EDGE_DISTANCE for each in ends)

    expected = [record for record in alone["masks"] if not is_cut(record)]
    assert (found["width"], found["height"]) == (width, height)
    assert expected
    assert [record["id"] for record in found["masks"]] == [record["id"] for record in expected]
    for ours, theirs in zip(found["masks"], expected, strict=True):
        x, y, w, h = theirs["bbox"]
        assert ours["bbox"] == [x + x0, y + y0, w, h]
        assert ours["crop_box"] == [x0, y0, x1 - x0, y1 - y0]
        assert ours["point_coords"] == [[px + x0, py + y0] for px, py in theirs["point_coords"]]
        assert np.array_equal(pixels_of(ours)[y0:y1, x0:x1], pixels_of(theirs))
        assert pixels_of(ours).sum() == theirs["area"]
