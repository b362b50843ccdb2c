"""Reads boxes from a COCO file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .box_files import BoxedImage, BoxFile, GivenBox, Refusal, check_name, corners_of, read_text


def read_coco_boxes(path: Path) -> BoxFile:
    """Read a COCO file. Annotations of crowds have no box of one object, and stay as they are.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no COCO file.
    """
    dataset = _dataset(path)
    refused: list[Refusal] = []
    images = dict(_images(dataset["images"], refused))
    ids = Counter(map(_id, dataset["annotations"]))
    for number, annotation in enumerate(dataset["annotations"], start=1):
        place = _place("annotation", annotation, number)
        try:
            annotation_id = _own_id(annotation, ids)
            if not annotation.get("iscrowd"):
                image = _image_of(annotation, images)
                image.boxes.append(GivenBox(annotation_id, _corners(annotation.get("bbox")), place))
        except ValueError as error:
            refused.append(Refusal(place, str(error)))
    return BoxFile(dataset, [image for image in images.values() if image.boxes], refused)


def _dataset(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        dataset = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    lists = ("images", "annotations")
    if not isinstance(dataset, dict) or not all(isinstance(dataset.get(key), list) for key in lists):
        raise ValueError(f"{path} is no COCO file: it needs the lists images and annotations.")
    return dataset


def _images(entries: list[Any], refused: list[Refusal]) -> Iterator[tuple[int, BoxedImage]]:
    """The images by their ids."""
    names: set[str] = set()
    ids = Counter(map(_id, entries))
    for number, entry in enumerate(entries, start=1):
        place = _place("image", entry, number)
        try:
            image_id, name = _own_id(entry, ids), _new_name(entry, names)
        except ValueError as error:
            refused.append(Refusal(place, str(error)))
            continue
        names.add(name)
        yield image_id, BoxedImage(name, place)


def _own_id(entry: Any, ids: Mapping[int | None, int]) -> int:
    """The id of an entry, which no other one has."""
    number = _id(entry)
    if number is None or ids[number] > 1:
        raise ValueError("it needs an id of its own, a whole number")
    return number


def _id(entry: Any) -> int | None:
    number = entry.get("id") if isinstance(entry, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _new_name(entry: Mapping[str, Any], names: set[str]) -> str:
    name = check_name(entry.get("file_name"))
    if name in names:
        raise ValueError(f"{name} is the file of another image, too")
    return name


def _image_of(annotation: Mapping[str, Any], images: Mapping[int, BoxedImage]) -> BoxedImage:
    image_id = annotation.get("image_id")
    if not isinstance(image_id, int) or image_id not in images:
        raise ValueError(f"there is no usable image with the id {image_id}")
    return images[image_id]


def _place(what: str, entry: Any, number: int) -> str:
    entry_id = _id(entry)
    return f"{what} number {number}" if entry_id is None else f"{what} {entry_id}"


def _corners(bbox: Any) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of COCO's x, y, width, height."""
    try:
        x, y, width, height = (float(number) for number in bbox)
    except (TypeError, ValueError):
        raise ValueError(f"the bbox {bbox} is not x, y, width, height") from None
    return corners_of([x, y, x + width, y + height])
