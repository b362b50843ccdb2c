"""The masks of an answer as arrays, read by other means than those that wrote them."""

import base64
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco


def full_mask(mask: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of an answer in one of the formats rle, png (not cropped) and polygon."""
    if mask.get("rle") is not None:
        assert tuple(mask["rle"]["size"]) == size
        full = _decoded(mask["rle"])
    elif mask.get("png") is not None:
        full = png_mask(base64.b64decode(mask["png"], validate=True))
    else:
        full = filled(mask["polygon"], size)
    assert full.shape == size
    return full


def png_mask(data: bytes) -> NDArray[np.bool_]:
    """The pixels of a PNG of one bit each, (H, W)."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert image.mode == "1"
        return np.asarray(image)


def filled(polygons: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Rings on pixel corners, filled by the even-odd rule: each vertical edge turns the pixels to its right."""
    full = np.zeros(size, np.bool_)
    for polygon in polygons:
        for ring in (polygon["exterior"], *polygon["holes"]):
            for (x, y), (next_x, next_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
                assert (x == next_x) != (y == next_y), f"{(x, y)} to {(next_x, next_y)} is no edge of pixels"
                top, bottom = sorted((int(y), int(next_y)))
                full[top:bottom, int(x) :] ^= True
    return full


def box_of(full: NDArray[np.bool_]) -> list[int]:
    """x0, y0, x1, y1 around the True pixels, exclusive at the end; zeros when there is none."""
    rows, columns = np.nonzero(full)
    if len(rows) == 0:
        return [0, 0, 0, 0]
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def logits_of(mask: dict[str, Any]) -> NDArray[np.float32]:
    """The low-resolution logits (256, 256) of an answer in the format `logits`."""
    data = base64.b64decode(mask["logits"], validate=True)
    return np.frombuffer(data, "<f2").reshape(256, 256).astype(np.float32)


def _decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own, with NumPy 2
        full = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    return full.astype(np.bool_)


def as_mask_logits(logits: NDArray[np.floating]) -> str:
    """Logits (256, 256) as a prompt's `mask_logits`."""
    return base64.b64encode(logits.astype("<f2").tobytes()).decode()
