"""Photos of bright ellipses on a dark background, which a random network learns in a few dozen steps."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIDE = 128


def write_ellipse_photos(folder: Path, count: int, *, seed: int) -> Path:
    """Write a data set with one ellipse and its exact mask in each photo, and return its folder."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    with (folder / "annotations.jsonl").open("w") as lines:
        for number in range(count):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            centre, radii = (tuple(random.integers(*span, 2).tolist()) for span in ((32, 96), (16, 48)))
            cv2.ellipse(mask, centre, radii, float(random.uniform(0, 180)), 0, 360, 1, -1)
            image = np.where(mask[..., None] > 0, random.integers(160, 255, 3), random.integers(0, 90, 3))
            noisy = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / f"{number}.png")
            rle = coco_mask.encode(np.asfortranarray(mask))
            record = {
                "file": f"images/{number}.png", "width": SIDE, "height": SIDE, "source": "ellipses",
                "masks": [{"size": rle["size"], "counts": rle["counts"].decode(), "kind": "object"}],
            }  # fmt: skip
            lines.write(json.dumps(record) + "\n")
    return folder
