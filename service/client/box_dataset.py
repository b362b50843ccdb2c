"""Writes a COCO dataset whose annotations get the masks of a run, one by one, so that the memory does not grow."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .annotations import Segmentation, coco_annotation
from .box_files import BoxFile
from .box_folder import masks_of
from .coco_file import write_list
from .folder_state import FolderState
from .values import Mask

_GetMasks = Callable[[str], Mapping[int, Mask]]
# Annotations of an image usually follow each other.
_KEPT_IMAGES = 64


def write_box_dataset(path: Path, given: BoxFile, state: FolderState, segmentation: Segmentation) -> None:
    """Write the dataset. The file is complete or not there. This blocks.

    Annotations with a mask get `segmentation`, `area` and `score`; their images get `width` and `height` if they lack
    them. Everything else stays as it is.

    Args:
        path: Path of the file.
        given: COCO dataset with boxes.
        state: State of the run.
        segmentation: "polygons", or "rle" for uncompressed run lengths.

    Raises:
        OSError: if the file cannot be written.
    """

    @lru_cache(_KEPT_IMAGES)
    def masks(name: str) -> Mapping[int, Mask]:
        return masks_of(state.line(name)) if name in state else {}

    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        separator = "{"
        for key, value in given.dataset.items():
            file.write(f"{separator}{json.dumps(key)}: ")
            separator = ", "
            if key == "images":
                write_list(file, _images(value, state))
            elif key == "annotations":
                write_list(file, _annotations(given, masks, segmentation))
            else:
                file.write(json.dumps(value))
        file.write("}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _images(images: list[Any], state: FolderState) -> Iterator[Any]:
    for image in images:
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and name in state:
            line = state.line(name)
            yield {**image, "width": line["width"], "height": line["height"]}
        else:
            yield image


def _annotations(given: BoxFile, masks: _GetMasks, segmentation: Segmentation) -> Iterator[Any]:
    names = {box.annotation_id: image.name for image in given.images for box in image.boxes}
    for annotation in given.dataset["annotations"]:
        mask = None
        annotation_id = annotation.get("id") if isinstance(annotation, dict) else None
        if isinstance(annotation_id, int) and annotation_id in names:
            mask = masks(names[annotation_id]).get(annotation_id)
        if mask is None:
            yield annotation
        else:
            made = coco_annotation(mask, image_id=0, category_id=0, segmentation=segmentation)
            yield {**annotation, **{key: made[key] for key in ("segmentation", "area", "score")}}
