"""Writes a COCO dataset of many images as a file, image by image, so that the memory does not grow with them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from .annotations import Segmentation, coco_annotation, coco_header
from .everything import EverythingMask

# Called for each pass over the images, which are lines of `FolderState`.
Images = Callable[[], Iterator[dict[str, Any]]]


def write_coco_file(path: Path, images: Images, label: str, segmentation: Segmentation) -> None:
    """Write the masks of images as a COCO dataset of one category. The file is complete or not there. This blocks.

    Args:
        path: Path of the file.
        images: Maker of an iterator over the images, each with `file`, `width`, `height` and `masks`, SAM's records.
        label: Name of the category.
        segmentation: "polygons", or "rle" for uncompressed run lengths.

    Raises:
        OSError: if the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        header = coco_header([label])
        file.write(json.dumps(header)[:-1])
        file.write(', "images": ')
        write_list(file, _images(images()))
        file.write(', "annotations": ')
        write_list(file, _annotations(images(), segmentation))
        file.write("}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _images(images: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, image in enumerate(images, start=1):
        yield {"id": number, "file_name": image["file"], "width": image["width"], "height": image["height"]}


def _annotations(images: Iterator[dict[str, Any]], segmentation: Segmentation) -> Iterator[dict[str, Any]]:
    number = 0
    for image_number, image in enumerate(images, start=1):
        for record in image["masks"]:
            mask = EverythingMask.of_record(record)
            if mask.area == 0:
                continue
            number += 1
            annotation = coco_annotation(mask, image_id=image_number, category_id=1, segmentation=segmentation)
            yield {"id": number, **annotation, "stability_score": mask.stability_score}


def write_list(file: TextIO, entries: Iterator[Any]) -> None:
    """Write a JSON list entry by entry."""
    separator = "["
    for entry in entries:
        file.write(f"{separator}\n{json.dumps(entry)}")
        separator = ","
    file.write("]" if separator == "," else "[]")
