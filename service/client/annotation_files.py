"""Writes annotations as files. The functions block."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .annotations import AnnotatedImage, coco_dataset, labelme_document, safe_file_name, yolo_files


@dataclass(frozen=True, slots=True)
class AnnotationPaths:
    """Paths to write annotations to.

    Args:
        coco: Path of a COCO file with polygons.
        coco_rle: Path of a COCO file with run lengths.
        labelme: Path of a labelme file.
        yolo: Folder of a dataset for YOLO segmentation, new or empty.
    """

    coco: Path | None = None
    coco_rle: Path | None = None
    labelme: Path | None = None
    yolo: Path | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any((self.coco, self.coco_rle, self.labelme, self.yolo))


def write_annotations(paths: AnnotationPaths, source: Path, data: bytes, image: AnnotatedImage) -> Iterator[Path]:
    """Write the files, and yield the path of each one that was asked for.

    Args:
        paths: Paths of the files.
        source: Path of the image's file.
        data: Bytes of the image's file, which become a part of the YOLO dataset.
        image: The image with its objects.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if the folder of the YOLO dataset is not empty.
    """
    if paths.coco:
        yield write_json(paths.coco, coco_dataset([image]))
    if paths.coco_rle:
        yield write_json(paths.coco_rle, coco_dataset([image], segmentation="rle"))
    if paths.labelme:
        document = labelme_document(image)
        document["imagePath"] = os.path.relpath(source, paths.labelme.parent)  # labelme looks there
        yield write_json(paths.labelme, document)
    if paths.yolo:
        yield _write_yolo(paths.yolo, data, image)


def write_json(path: Path, document: object) -> Path:
    """Write a document as JSON, and return the path.

    Raises:
        OSError: if the file cannot be written.
    """
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _write_yolo(folder: Path, data: bytes, image: AnnotatedImage) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. A YOLO dataset needs a folder of its own.")
    name = safe_file_name(image.name)
    files = yolo_files([AnnotatedImage(name, image.width, image.height, image.objects)])
    for path, content in {**{path: text.encode() for path, text in files.items()}, f"images/{name}": data}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
