"""Fixtures of tests of training and evaluation: a model with the reference weights, and small data sets."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from support.random_model import random_model


@pytest.fixture(scope="session")
def model():
    return random_model()


@pytest.fixture
def data(tmp_path):
    """Folder of a data set with four photos of one mask each."""
    return write_photos(tmp_path / "data", 4)


@pytest.fixture
def six_photos(tmp_path):
    """Folder of a data set with six photos of one mask each, enough for a cross-validation."""
    return write_photos(tmp_path / "six", 6)


def write_photos(folder, count):
    (folder / "images").mkdir(parents=True)
    with (folder / "annotations.jsonl").open("w") as lines:
        for number in range(count):
            mask = np.zeros((48, 64), np.uint8)
            mask[8 + number : 30, 10:40] = 1
            image = np.where(mask[..., None] > 0, [220, 180, 40], [20, 60, 90]).astype(np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{number}.png")
            rle = coco_mask.encode(np.asfortranarray(mask))
            record = {
                "file": f"images/{number}.png", "width": 64, "height": 48, "licence_class": "attribution",
                "masks": [{"size": rle["size"], "counts": rle["counts"].decode(), "kind": "object"}],
            }  # fmt: skip
            lines.write(json.dumps(record) + "\n")
    return folder
