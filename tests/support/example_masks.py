"""Masks that the API gives for a prompt, to compare the examples with."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco


def best_mask(url: str, photo: Path, prompt: dict[str, Any], **options: str) -> NDArray[np.uint8]:
    """Return the pixels of the best mask of one prompt, (H, W), 0 and 1."""
    with httpx.Client(base_url=url, timeout=60) as client:
        image = client.post("/embed", files={"image": photo.read_bytes()}).raise_for_status().json()
        body = {"image_hash": image["image_hash"], "prompts": [prompt], **options}
        answer = client.post("/segment", json=body).raise_for_status().json()
    pixels: NDArray[np.uint8] = coco.decode(answer["results"][0]["masks"][0]["rle"])
    return pixels


def iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the intersection over union of two masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))
