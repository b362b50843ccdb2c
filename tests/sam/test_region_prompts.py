"""Prompts on a region: moved into it, refused outside of it, and boxes moved back."""

import numpy as np
import pytest

from service.errors import PromptOutsideImage
from service.sam.decoded_image import ImageInfo
from service.sam.prompts import Prompt
from service.sam.region import Region
from service.sam.region_prompts import to_encoded, to_whole

REGION = Region(100, 50, 300, 150)
IMAGE = ImageInfo((400, 500), 1, "full", REGION)


def points(*places):
    return Prompt(points=np.array(places, np.float64), labels=np.ones(len(places), np.int64))


def box(*corners):
    return Prompt(box=np.array(corners, np.float64))


def test_points_and_boxes_are_moved_into_the_region():
    prompt = Prompt(
        points=np.array([[100.0, 50.0], [300.0, 150.0], [100.5, 99.5]]),
        labels=np.array([1, 0, 1]),
        box=np.array([90.0, 60.0, 310.0, 120.0]),
    )

    moved = to_encoded(prompt, IMAGE)

    assert moved.points.tolist() == [[0.0, 0.0], [200.0, 100.0], [0.5, 49.5]]
    assert moved.labels.tolist() == [1, 0, 1]
    assert moved.box.tolist() == [-10.0, 10.0, 210.0, 70.0]


def test_prompts_on_a_whole_image_stay_as_they_are():
    prompt = points((500.0, 400.0))

    assert to_encoded(prompt, ImageInfo((400, 500), 1, "full")) is prompt


@pytest.mark.parametrize(
    "prompt",
    [points((99.9, 60)), points((150, 49.9)), points((300.1, 60)), points((150, 150.1)), points((150, 60), (10, 10)),
     box(0, 0, 100, 200), box(300, 0, 500, 400), box(0, 0, 500, 50), box(0, 150, 500, 400)],
)  # fmt: skip
def test_prompts_outside_of_the_region_are_refused_by_its_name(prompt):
    with pytest.raises(PromptOutsideImage, match=r"the region 100,50,300,150 of the image") as refused:
        to_encoded(prompt, IMAGE)

    assert refused.value.extra == {"region": [100, 50, 300, 150], "width": 500, "height": 400}


@pytest.mark.parametrize("prompt", [points((501, 60)), points((150, -1)), box(-9, -9, 0, 0)])
def test_prompts_outside_of_the_image_are_refused_as_without_a_region(prompt):
    with pytest.raises(PromptOutsideImage, match="500 x 400 pixels"):
        to_encoded(prompt, IMAGE)


def test_boxes_are_moved_back():
    assert to_whole((1.0, 2.0, 3.0, 4.0), REGION) == (101.0, 52.0, 103.0, 54.0)
    assert to_whole((1.0, 2.0, 3.0, 4.0), None) == (1.0, 2.0, 3.0, 4.0)
    assert to_whole(None, REGION) is None
