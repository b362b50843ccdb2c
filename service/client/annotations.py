"""Masks in the annotation formats of other tools: COCO, YOLO segmentation and labelme.

Formats with polygons get one polygon for each connected part, without holes; see `outlines.polygons_of`. Coordinates
count corners of pixels of the upright image. Objects whose mask is empty are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from .everything import EverythingMask
from .outlines import polygons_of
from .rle import run_lengths
from .values import Mask

AnyMask = Mask | EverythingMask
Segmentation = Literal["polygons", "rle"]

_LABELME_VERSION: Final = "5.5.0"  # the format of labelme 5 and 6
_YOLO_DECIMALS: Final = 7
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"/\\|?*]')


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedObject:
    """An object of an image.

    Args:
        label: Name of the object's category.
        mask: Mask of the object.
    """

    label: str
    mask: AnyMask


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image with the objects to export.

    Args:
        name: Name of the image's file.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        objects: Objects of the image.
    """

    name: str
    width: int
    height: int
    objects: Sequence[AnnotatedObject]

    @property
    def visible(self) -> list[AnnotatedObject]:
        """The objects whose masks are not empty."""
        return [one for one in self.objects if one.mask.area > 0]


def coco_dataset(images: Sequence[AnnotatedImage], *, segmentation: Segmentation = "polygons") -> dict[str, Any]:
    """A COCO dataset, ready for `json.dump`.

    Every annotation has `iscrowd` 0, as training and evaluation leave out annotations with 1.

    Args:
        images: Images with their objects.
        segmentation: "polygons", or "rle" for uncompressed run lengths, which some tools cannot import.
    """
    labels = _labels(images)
    dataset = {
        **coco_header(labels),
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "annotations": [],
    }
    for image_id, image in enumerate(images, start=1):
        for one in image.visible:
            category_id = labels.index(one.label) + 1
            annotation = coco_annotation(
                one.mask, image_id=image_id, category_id=category_id, segmentation=segmentation
            )
            dataset["annotations"].append({"id": len(dataset["annotations"]) + 1, **annotation})
    return dataset


def coco_header(labels: Sequence[str]) -> dict[str, Any]:
    """The members of a COCO dataset that do not depend on its images."""
    return {
        "info": {"description": "Objects segmented with EdgeSAM", "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": category_id, "name": label, "supercategory": ""} for category_id, label in enumerate(labels, start=1)
        ],
    }


def coco_annotation(mask: AnyMask, *, image_id: int, category_id: int, segmentation: Segmentation) -> dict[str, Any]:
    """A mask as an annotation of a COCO dataset, without its id."""
    x0, y0, x1, y1 = mask.box
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": _runs(mask) if segmentation == "rle" else _flat_polygons(mask),
        "area": mask.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": mask.score,
    }


def yolo_files(images: Sequence[AnnotatedImage]) -> dict[str, str]:
    """The text files of a dataset for YOLO segmentation, by their paths.

    There is `data.yaml` and one file of labels for each image. The images belong beside them, under `images/` and their
    names.

    Raises:
        ValueError: if a name does not fit a file, or if two names differ only in their endings.
    """
    labels = _labels(images)
    classes = "".join(f"  {number}: {_yaml_text(label)}\n" for number, label in enumerate(labels))
    files = {"data.yaml": "train: images\nval: images\nnames:" + (f"\n{classes}" if classes else " {}\n")}
    for image in images:
        if safe_file_name(image.name) != image.name:
            raise ValueError(f"{image.name!r} is not a file name.")
        path = f"labels/{PurePath(image.name).stem}.txt"
        if path in files:
            raise ValueError(f"Two images would have the labels {path}.")
        size = (image.width, image.height)
        files[path] = "".join(
            f"{labels.index(one.label)} {_shares(_joined(polygons_of(one.mask.pixels)) / size)}\n"
            for one in image.visible
        )
    return files


def labelme_document(image: AnnotatedImage) -> dict[str, Any]:
    """A document of labelme, ready for `json.dump`. The parts of an object have the same `group_id`."""
    shapes = []
    for number, one in enumerate(image.visible, start=1):
        parts = polygons_of(one.mask.pixels)
        shapes += [
            {
                "label": one.label,
                "points": part.tolist(),
                "group_id": number if len(parts) > 1 else None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for part in parts
        ]
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image.name,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }


def safe_file_name(name: str) -> str:
    """A name that every file system takes, without folders."""
    return _UNSAFE.sub("_", name).strip(". ") or "image"


def _labels(images: Sequence[AnnotatedImage]) -> list[str]:
    """The labels of all objects, each once, in order."""
    return list(dict.fromkeys(one.label for image in images for one in image.visible))


def _flat_polygons(mask: AnyMask) -> list[list[float]]:
    return [part.ravel().tolist() for part in polygons_of(mask.pixels)]


def _runs(mask: AnyMask) -> dict[str, Any]:
    return {"size": list(mask.size), "counts": run_lengths(mask.counts).tolist()}


def _joined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One line through all parts, (N, 2), since a line of YOLO's labels is one object.

    Cuts without width lead from the largest part to the others and back, as Ultralytics joins the parts of a COCO
    annotation.
    """
    main, *others = sorted(parts, key=_area, reverse=True)
    excursions: dict[int, list[NDArray[np.float64]]] = {}
    for part in others:
        there = _nearest(part, main[_nearest(main, part[0])])
        here = _nearest(main, part[there])
        excursions.setdefault(here, []).extend((part[there:], part[: there + 1], main[here : here + 1]))
    pieces, start = [], 0
    for here in sorted(excursions):
        pieces += [main[start : here + 1], *excursions[here]]
        start = here + 1
    return np.concatenate((*pieces, main[start:]))


def _area(points: NDArray[np.float64]) -> int:
    """Twice the area inside, rounded to make the order of equal parts certain."""
    x, y = points.T
    return round(abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) * 1000)


def _nearest(points: NDArray[np.float64], place: NDArray[np.float64]) -> int:
    """Index of the point that is nearest to a place."""
    return int(np.argmin(((points - place) ** 2).sum(axis=1)))


def _shares(points: NDArray[np.float64]) -> str:
    """Shares from 0 to 1 in few characters."""
    texts = (f"{share:.{_YOLO_DECIMALS}f}".rstrip("0").rstrip(".") for share in points.ravel().tolist())
    return " ".join(texts)


def _yaml_text(text: str) -> str:
    """A text in YAML's double quotes. Characters that YAML does not print are escaped."""
    return '"' + "".join(_yaml_character(character) for character in text) + '"'


def _yaml_character(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if character.isprintable():
        return character
    code = 0xFFFD if "\ud800" <= character <= "\udfff" else ord(character)
    return f"\\U{code:08x}"
