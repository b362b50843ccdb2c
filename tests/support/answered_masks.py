"""Masks of a response as arrays, decoded by other libraries than the service's encoders."""

import base64
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco


def full_mask(mask: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask (H, W) of a response in the format rle, png (not cropped) or polygon."""
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
    """Return the pixels (H, W) of a bilevel PNG."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert image.mode == "1"
        return np.asarray(image)


def grey_image(data: bytes) -> NDArray[np.uint8]:
    """Return the values (H, W) of a grey PNG of 8 bits a pixel."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert image.mode == "L"
        return np.asarray(image)


def filled(polygons: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (H, W) inside polygons on pixel corners, by the even-odd rule.

    Each vertical edge inverts the pixels to its right.
    """
    full = np.zeros(size, np.bool_)
    for polygon in polygons:
        for ring in (polygon["exterior"], *polygon["holes"]):
            for (x, y), (next_x, next_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
                assert (x == next_x) != (y == next_y), f"{(x, y)} to {(next_x, next_y)} is not an edge of pixels"
                top, bottom = sorted((int(y), int(next_y)))
                full[top:bottom, int(x) :] ^= True
    return full


def box_of(full: NDArray[np.bool_]) -> list[int]:
    """Return x0, y0, x1, y1 around the True pixels, exclusive at the end; zeros if there are none."""
    rows, columns = np.nonzero(full)
    if len(rows) == 0:
        return [0, 0, 0, 0]
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def logits_of(mask: dict[str, Any]) -> NDArray[np.float32]:
    """Return the low-resolution logits (256, 256) of a mask in the format `logits`."""
    data = base64.b64decode(mask["logits"], validate=True)
    return np.frombuffer(data, "<f2").reshape(256, 256).astype(np.float32)


def _decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from pycocotools, with NumPy 2
        full = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    return full.astype(np.bool_)


def as_mask_logits(logits: NDArray[np.floating]) -> str:
    """Return logits (256, 256) as the field `mask_logits` of a prompt."""
    return base64.b64encode(logits.astype("<f2").tobytes()).decode()
