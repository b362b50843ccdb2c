"""Images with masks from which windows are cut: photos, photos with a pasted object, or synthetic scenes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import AnnotationError, MaskRecord, PhotoRecord
from service.sam.transforms import Size

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

LONGEST_SIDE = 1536
"""Longest side of photos in memory, in pixels: 1.5 times the frame, so that the frame loses no detail."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image and its M masks.

    Attributes:
        pixels: Image, (H, W, 3) RGB.
        boxes: Boxes of the masks, (M, 4) float64, x0, y0, x1, y1 in pixels, exclusive at the end.
        weights: Relative frequency of each mask as a prompt's target, (M,) float64.
        mask: Function that decodes mask number j, (H, W), 0 and 1.
        required: Number of the mask that a window has to show; None if it is drawn by weight.
    """

    pixels: Bytes
    boxes: Floats
    weights: Floats
    mask: Callable[[int], Bytes]
    required: int | None = None


class UnreadablePhoto(AnnotationError):
    """A photo or one of its masks cannot be read.

    Attributes:
        path: Path of the photo.
    """

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path


def read_image(record: PhotoRecord, weights: NDArray[np.float32]) -> AnnotatedImage:
    """Read a photo of a data set, reduced to at most `LONGEST_SIDE`.

    Args:
        record: Photo with its masks.
        weights: Weights of the masks, (M,), from `sampling.weights`.

    Raises:
        UnreadablePhoto: The photo or the run lengths of its masks are broken; the result's `mask` raises it, too.
    """
    pixels = read_pixels(record)
    size = (pixels.shape[0], pixels.shape[1])
    try:
        boxes = np.array([mask.box for mask in record.masks], np.float64).reshape(-1, 4)
    except Exception as error:  # the run lengths are foreign data, and the parser raises errors of many types
        raise UnreadablePhoto(record.path, error) from error
    boxes *= np.tile([size[1] / record.size[1], size[0] / record.size[0]], 2)
    return AnnotatedImage(
        pixels, boxes, weights.astype(np.float64), lambda number: read_mask(record, record.masks[number], size)
    )


def read_pixels(record: PhotoRecord) -> Bytes:
    """Return the photo (H, W, 3) of a record, reduced to `LONGEST_SIDE` if it is longer.

    Raises:
        UnreadablePhoto: The file is missing or broken.
    """
    try:
        return record.image(max_side=LONGEST_SIDE)
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, ValueError and more
        raise UnreadablePhoto(record.path, error) from error


def read_mask(record: PhotoRecord, mask: MaskRecord, size: Size) -> Bytes:
    """Return a mask of a photo, 0 and 1.

    Args:
        record: Photo of the mask.
        mask: Mask to decode.
        size: Height and width of the photo as it was read, in pixels.

    Raises:
        UnreadablePhoto: The run lengths are broken, or of another size than the photo.
    """
    try:
        pixels = mask.decode()
    except Exception as error:  # see `read_image`
        raise UnreadablePhoto(record.path, error) from error
    if pixels.shape != record.size:
        raise UnreadablePhoto(record.path, f"a mask has {pixels.shape} pixels, the photo {record.size}")
    if size != record.size:
        # Decoded masks are stored column by column. OpenCV would copy a mask that is not transposed.
        pixels = np.asarray(cv2.resize(pixels.T, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8).T
    return np.ascontiguousarray(pixels)
