"""An image with masks that windows are cut from: a photo of a data set, with or without something pasted, or drawn."""

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
"""Photos are reduced to it, in pixels: half as long again as the frame, so that nothing the encoder sees is lost."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image and its M masks.

    Attributes:
        pixels: (H, W, 3) RGB.
        boxes: (M, 4) float64, x0, y0, x1, y1 in pixels, exclusive at the end.
        weights: (M,) float64, how often a mask is asked for.
        mask: Gives mask number j as (H, W), 0 and 1; decoded when it is asked for.
        aim: Number of the mask that a window has to show, or None where it is chosen by weight.
    """

    pixels: Bytes
    boxes: Floats
    weights: Floats
    mask: Callable[[int], Bytes]
    aim: int | None = None


class UnreadablePhoto(AnnotationError):
    """A photo or one of its masks cannot be read.

    Attributes:
        path: File of the photo.
    """

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path


def read_image(record: PhotoRecord, weights: NDArray[np.float32]) -> AnnotatedImage:
    """A photo of a data set, not larger than windows need it.

    Args:
        record: The photo and its masks.
        weights: (M,), see `sampling.weights`.

    Raises:
        UnreadablePhoto: The photo or the run lengths of its masks are broken; `mask` of the result raises it, too.
    """
    pixels = read_pixels(record)
    size = (pixels.shape[0], pixels.shape[1])
    try:
        boxes = np.array([mask.box for mask in record.masks], np.float64).reshape(-1, 4)
    except Exception as error:  # the run lengths come from elsewhere, and a parser may fail in any way
        raise UnreadablePhoto(record.path, error) from error
    boxes *= np.tile([size[1] / record.size[1], size[0] / record.size[0]], 2)
    return AnnotatedImage(
        pixels, boxes, weights.astype(np.float64), lambda number: read_mask(record, record.masks[number], size)
    )


def read_pixels(record: PhotoRecord) -> Bytes:
    """The photo (H, W, 3) of a record, reduced to `LONGEST_SIDE` if it is longer.

    Raises:
        UnreadablePhoto: Whatever is wrong with the file.
    """
    try:
        return record.image(max_side=LONGEST_SIDE)
    except Exception as error:  # decoders of broken files fail in many ways: OSError, SyntaxError, ValueError, …
        raise UnreadablePhoto(record.path, error) from error


def read_mask(record: PhotoRecord, mask: MaskRecord, size: Size) -> Bytes:
    """A mask of a photo, 0 and 1.

    Args:
        record: The photo.
        mask: One of its masks.
        size: (H, W) of the photo as it was read.

    Raises:
        UnreadablePhoto: The run lengths are broken, or of another size than the photo.
    """
    try:
        pixels = mask.decode()
    except Exception as error:  # as above
        raise UnreadablePhoto(record.path, error) from error
    if pixels.shape != record.size:
        raise UnreadablePhoto(record.path, f"a mask has {pixels.shape} pixels, the photo {record.size}")
    if size != record.size:
        # Decoded masks lie in memory column by column; OpenCV would copy all of one that is not transposed.
        pixels = np.asarray(cv2.resize(pixels.T, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8).T
    return np.ascontiguousarray(pixels)
