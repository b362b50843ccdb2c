"""Reads boxes from a CSV file: file name, x0, y0, x1, y1 and a label, which may be missing."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from .annotations import coco_header
from .box_files import BoxedImage, BoxFile, GivenBox, Refusal, check_name, corners_of, read_text

_COLUMNS: Final = ("file_name", "x0", "y0", "x1", "y1", "label")
# Other names of the columns in a header, as labelling tools write them.
_ALIASES: Final = {
    "file": "file_name",
    "filename": "file_name",
    "image": "file_name",
    "xmin": "x0",
    "ymin": "y0",
    "xmax": "x1",
    "ymax": "y1",
    "class": "label",
}


def read_csv_boxes(path: Path, label: str) -> BoxFile:
    """Read a CSV file. The id of an annotation is the number of its line.

    A first row with the names of the columns is a header. The columns may then have any order, and others are ignored.

    Args:
        path: Path of the file.
        label: Label of rows without one.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is no text in UTF-8, or no CSV.
    """
    images: dict[str, BoxedImage] = {}
    labels: dict[int, str] = {}
    refused = []
    for line, row in _rows(path):
        place = f"line {line}"
        try:
            name, corners = check_name(row.get("file_name", "").strip()), corners_of(_numbers(row))
        except ValueError as error:
            refused.append(Refusal(place, str(error)))
            continue
        image = images.setdefault(name, BoxedImage(name, place))
        image.boxes.append(GivenBox(line, corners, place))
        labels[line] = row.get("label", "").strip() or label
    return BoxFile(_dataset(list(images.values()), labels), list(images.values()), refused)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by the names of their columns, each with the number of its line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    columns: Sequence[str] = _COLUMNS
    try:
        for number, row in enumerate(reader):
            if number == 0 and (header := _header(row)):
                columns = header
            elif any(cell.strip() for cell in row):
                yield reader.line_num, dict(zip(columns, row, strict=False))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _header(row: Sequence[str]) -> list[str] | None:
    """The columns that a header names, or None if the row is no header."""
    names = [cell.strip().lower() for cell in row]
    columns = [_ALIASES.get(name, name) for name in names]
    return columns if set(_COLUMNS[:5]) <= set(columns) else None


def _numbers(row: dict[str, str]) -> list[str]:
    numbers = [row.get(column, "").strip() for column in _COLUMNS[1:5]]
    if not all(numbers):
        raise ValueError(f"a row needs {', '.join(_COLUMNS[:5])}, separated by commas; the label may be missing")
    return numbers


def _dataset(images: Sequence[BoxedImage], labels: dict[int, str]) -> dict[str, Any]:
    categories = {name: number for number, name in enumerate(dict.fromkeys(labels.values()), start=1)}
    return {
        **coco_header(list(categories)),
        "images": [{"id": number, "file_name": image.name} for number, image in enumerate(images, start=1)],
        "annotations": [
            {
                "id": box.annotation_id,
                "image_id": number,
                "category_id": categories[labels[box.annotation_id]],
                "bbox": _bbox(box),
                "iscrowd": 0,
            }
            for number, image in enumerate(images, start=1)
            for box in image.boxes
        ],
    }


def _bbox(box: GivenBox) -> list[float]:
    x0, y0, x1, y1 = box.corners
    return [x0, y0, x1 - x0, y1 - y0]
