"""Boxes of images, as a CSV or a COCO file gives them. Both become a COCO dataset that lacks masks."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

BoxCorners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A part of the file that cannot be used.

    Args:
        place: Place in the file, such as "line 7".
        reason: Reason, a phrase.
    """

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class GivenBox:
    """A box of an image.

    Args:
        annotation_id: Id of the annotation in the dataset.
        corners: x0, y0, x1, y1 in pixels of the upright image.
        place: Place in the file.
    """

    annotation_id: int
    corners: BoxCorners
    place: str


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """An image with its boxes.

    Args:
        name: Path of the image below the folder.
        place: Place in the file where the image is first named.
        boxes: Boxes of the image, at least one.
    """

    name: str
    place: str
    boxes: list[GivenBox] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Digest of the boxes, which changes with any of them."""
        document = json.dumps([(box.annotation_id, box.corners) for box in self.boxes])
        return hashlib.sha256(document.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BoxFile:
    """The content of a file.

    Args:
        dataset: COCO dataset, whose annotations get masks.
        images: Images with boxes, each name once.
        refused: Parts of the file that cannot be used. The others can.
    """

    dataset: dict[str, Any]
    images: Sequence[BoxedImage]
    refused: Sequence[Refusal]


def corners_of(numbers: Sequence[Any]) -> BoxCorners:
    """Check the corners of a box.

    Args:
        numbers: x0, y0, x1, y1, as numbers or texts.

    Raises:
        ValueError: if they are no finite numbers, or the box is empty.
    """
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"{list(numbers)} is not a box of four numbers") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("a box has finite numbers")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} is empty: x1 must be above x0, and y1 above y0")
    return x0, y0, x1, y1


def check_name(name: Any) -> str:
    """Check the name of an image: a path below the folder.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the file name of the image is missing")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ValueError(f"{name} leads out of the folder")
    return name


def read_text(path: Path) -> str:
    """Read a file of boxes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8. Save it as UTF-8.") from error
