"""Copy-paste augmentation: objects of other photos are pasted in front of a photo, with exact masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotated_images import AnnotatedImage, read_mask, read_pixels
from model_store.training.data.annotations import PhotoRecord

Bytes = NDArray[np.uint8]

# Kinds of masks that are complete objects; "" stands for data sets without kinds, such as SA-1B.
_OBJECT_KINDS = frozenset({"object", ""})
_MIN_SIDE = 12  # photo pixels; a smaller cutout is not recognisable
_MIN_VISIBLE_SIDE = 6  # photo pixels; smallest visible side of the pasted object
_MIN_PIXELS = 30
_SIZES = (0.12, 0.6)  # longer side of the pasted object as a share of the photo's
_MAX_ENLARGEMENT = 2.5  # larger objects could be recognised by their blur
_MAX_HIDDEN = 0.5  # a mask that is hidden by more is no longer the annotated object
_WEIGHT = 1.5  # weight of the pasted object relative to the photo's most likely mask


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """An object cut out of a photo.

    Attributes:
        pixels: Image of the object, (h, w, 3) RGB.
        opacity: Opacity of the object, (h, w), 0 to 255.
    """

    pixels: Bytes
    opacity: Bytes


def donor_numbers(records: Sequence[PhotoRecord]) -> NDArray[np.int64]:
    """Return the numbers of the photos that have an object to cut out."""
    found = [i for i, record in enumerate(records) if any(mask.kind in _OBJECT_KINDS for mask in record.masks)]
    return np.array(found, np.int64)


def cut_out(record: PhotoRecord, random: np.random.Generator) -> Cutout | None:
    """Cut out one of a photo's objects; None where it is too small.

    Raises:
        UnreadablePhoto: The photo or the mask is broken.
    """
    objects = [mask for mask in record.masks if mask.kind in _OBJECT_KINDS]
    pixels = read_pixels(record)
    mask = read_mask(record, objects[int(random.integers(len(objects)))], (pixels.shape[0], pixels.shape[1]))
    x, y, width, height = cv2.boundingRect(mask)
    if min(width, height) < _MIN_SIDE:
        return None
    rows, columns = slice(y, y + height), slice(x, x + width)
    return Cutout(pixels[rows, columns], mask[rows, columns] * np.uint8(255))


def paste(image: AnnotatedImage, cutout: Cutout, random: np.random.Generator) -> AnnotatedImage | None:
    """Return an image with an object in front of it, which becomes mask 0 and the required mask.

    Masks lose their hidden pixels. A mask that loses more than half of them becomes empty.

    Args:
        image: Image behind the object.
        cutout: Object to paste.
        random: Generator that draws size, position and mirroring of the object.

    Returns:
        The image; None where too little of the object would be on it.
    """
    height, width = image.pixels.shape[:2]
    scaled = _scaled(cutout, max(height, width), random)
    if random.random() < 0.5:
        scaled = Cutout(scaled.pixels[:, ::-1], scaled.opacity[:, ::-1])
    object_height, object_width = scaled.opacity.shape
    # Up to a third of the object may be outside on the left and at the top, and half of it on the other sides.
    left = int(random.integers(-(object_width // 3), width - object_width // 2 + 1))
    top = int(random.integers(-(object_height // 3), height - object_height // 2 + 1))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + object_width, width), min(top + object_height, height)
    if min(x1 - x0, y1 - y0) < _MIN_VISIBLE_SIDE:
        return None
    target, visible = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    front = np.zeros((height, width), np.uint8)
    front[target] = scaled.opacity[visible] > 127
    if np.count_nonzero(front) < _MIN_PIXELS:
        return None
    pixels = image.pixels.copy()
    pixels[target] = blend(pixels[target], scaled.pixels[visible], scaled.opacity[visible])
    x, y, front_width, front_height = cv2.boundingRect(front)
    box = np.array([[x, y, x + front_width, y + front_height]], np.float64)
    weight = _WEIGHT * max(float(image.weights.max(initial=0.0)), 1e-3)

    def mask(number: int) -> Bytes:
        return front if number == 0 else _behind(image.mask(number - 1), front)

    return replace(
        image,
        pixels=pixels,
        boxes=np.concatenate([box, image.boxes]),
        weights=np.concatenate([[weight], image.weights]),
        mask=mask,
        required=0,
    )


def blend(behind: Bytes, front: Bytes, opacity: Bytes) -> Bytes:
    """Blend two images (h, w, 3) by the opacity (h, w) of the front, 0 to 255."""
    share = opacity[..., None].astype(np.float32) / 255
    return np.asarray(np.round(behind * (1 - share) + front * share), np.uint8)


def _scaled(cutout: Cutout, long_side: int, random: np.random.Generator) -> Cutout:
    height, width = cutout.opacity.shape
    share = math.exp(random.uniform(math.log(_SIZES[0]), math.log(_SIZES[1])))
    scale = min(share * long_side / max(height, width), _MAX_ENLARGEMENT)
    size = (max(round(width * scale), _MIN_VISIBLE_SIDE), max(round(height * scale), _MIN_VISIBLE_SIDE))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels, opacity = (cv2.resize(part, size, interpolation=interpolation) for part in (cutout.pixels, cutout.opacity))
    return Cutout(np.asarray(pixels, np.uint8), np.asarray(opacity, np.uint8))


def _behind(mask: Bytes, front: Bytes) -> Bytes:
    """Return the visible rest of a mask; an empty mask where most of it is hidden."""
    rest = mask * (1 - front)
    return rest if np.count_nonzero(rest) >= (1 - _MAX_HIDDEN) * np.count_nonzero(mask) else np.zeros_like(mask)
