"""Reads data sets of photos with masks: this project's jsonl, COCO-style JSON (LVIS too), and SA-1B folders."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ModelStoreError
from service.sam.transforms import Size, input_size

if TYPE_CHECKING:
    from PIL import Image

JSONL_NAME = "annotations.jsonl"
_FIRST_ROTATED_ORIENTATION = 5  # EXIF orientations 5 to 8 exchange width and height


class AnnotationError(ModelStoreError):
    """The files are not a readable data set; the message names the file and the problem."""


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One mask of a photo.

    Args:
        rle: Compressed COCO run lengths, at the size of the photo.
        kind: Kind of the mask: object, part, region or stuff; "" where the data set does not state it.
        votes: Number of annotators that drew the mask.
        click: Point (x, y) in pixels that the data set gives for the mask; None for none.
    """

    rle: Mapping[str, Any]
    kind: str = ""
    votes: int = 1
    click: tuple[float, float] | None = None

    def decode(self) -> NDArray[np.uint8]:
        """Return the mask, (H, W), 0 and 1."""
        pixels: NDArray[np.uint8] = _coco_mask().decode(self.rle)
        return pixels

    @property
    def area(self) -> int:
        """Area, in pixels."""
        return int(_coco_mask().area(self.rle))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Box as x0, y0, x1, y1 in pixels, exclusive at the end."""
        x, y, width, height = (float(value) for value in _coco_mask().toBbox(self.rle))
        return x, y, x + width, y + height


@dataclass(frozen=True, slots=True)
class PhotoRecord:
    """A photo and its masks; nothing is decoded yet.

    Args:
        path: Path of the photo.
        size: Height and width for which the masks are, in pixels.
        source: Name of the source within a data set; "" where it is not stated.
        licence_class: Class of the photo's licence; "" where it is not stated.
        masks: Masks of the photo.
    """

    path: Path
    size: Size
    source: str
    licence_class: str = ""
    masks: Sequence[MaskRecord] = field(default_factory=tuple)

    def image(self, *, max_side: int | None = None) -> NDArray[np.uint8]:
        """Read the photo, upright.

        Args:
            max_side: Longest side of the result, in pixels. A longer photo is reduced to it, which decodes JPEG files
                faster. None reads all pixels.

        Returns:
            (H, W, 3) RGB.

        Raises:
            AnnotationError: The photo and its masks differ in size.
        """
        from PIL import ExifTags, Image, ImageOps  # noqa: PLC0415 - see `_coco_mask`

        with Image.open(self.path) as file:
            stored = (file.height, file.width)
            is_rotated = file.getexif().get(ExifTags.Base.Orientation, 1) >= _FIRST_ROTATED_ORIENTATION
            upright = stored[::-1] if is_rotated else stored
            if self.size not in (upright, stored):
                raise AnnotationError(f"{self.path} has {upright} pixels, its masks are for {self.size}")
            photo = file if max_side is None or max(stored) <= max_side else _reduced(file, max_side)
            # COCO's masks are for the stored pixels, without rotation.
            photo = ImageOps.exif_transpose(photo) if self.size == upright else photo
            return np.array(photo.convert("RGB"))  # a copy, since torch requires writable arrays


def _reduced(file: "Image.Image", max_side: int) -> "Image.Image":
    """Return an opened photo reduced to `max_side` pixels on its longer side."""
    from PIL import Image  # noqa: PLC0415 - see `_coco_mask`

    height, width = (max(side, 1) for side in input_size((file.height, file.width), max_side))
    exif = file.getexif()
    drafted = file.draft(None, (width, height))  # JPEG files are decoded at a half, a quarter or an eighth
    box = drafted[1] if drafted else None
    reduced = file.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    reduced.getexif().update(exif)
    return reduced


def read_annotations(source: str | Path, *, licence_classes: Iterable[str] | None = None) -> list[PhotoRecord]:
    """Return the photos of a data set that have a mask.

    Args:
        source: Data set: a folder with annotations.jsonl, a folder of SA-1B's pairs of .jpg and .json, or a COCO-style
            .json file. COCO's images are beside that file, in `images`, in a folder of the file's own name, or in
            another folder that `FILE:FOLDER` names.
        licence_classes: Licence classes to take; None takes all.

    Raises:
        AnnotationError: The source is no data set, or a part of it cannot be read.
    """
    text, _, images = str(source).partition(":")
    path = Path(text)
    if path.is_file():
        photos = _read_coco(path, Path(images) if images else None)
    elif (path / JSONL_NAME).is_file():
        photos = _read_jsonl(path)
    elif path.is_dir():
        photos = _read_sa1b(path)
    else:
        raise AnnotationError(f"{path} is neither a folder nor a file with annotations")
    if licence_classes is not None:
        allowed = set(licence_classes)
        photos = [photo for photo in photos if photo.licence_class in allowed]
    photos = [photo for photo in photos if photo.masks]
    if not photos:
        raise AnnotationError(f"{path} has no photo with a mask that may be used")
    return photos


def _read_jsonl(folder: Path) -> list[PhotoRecord]:
    photos = []
    with (folder / JSONL_NAME).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            photos.append(_parsed(lambda: _jsonl_photo(folder, json.loads(line)), f"{folder / JSONL_NAME}:{number}"))  # noqa: B023 - called at once
    return photos


def _jsonl_photo(folder: Path, record: Mapping[str, Any]) -> PhotoRecord:
    masks = tuple(
        MaskRecord(
            {"size": mask["size"], "counts": mask["counts"].encode()}, mask.get("kind", ""), int(mask.get("votes", 1))
        )
        for mask in record["masks"]
    )
    size = (int(record["height"]), int(record["width"]))
    return PhotoRecord(folder / record["file"], size, record.get("source", ""), record.get("licence_class", ""), masks)


def _read_coco(path: Path, images: Path | None) -> list[PhotoRecord]:
    content = _parsed(lambda: json.loads(path.read_bytes()), str(path))
    folders = [images] if images else [path.parent / "images", path.parent / path.stem, path.parent]
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in _parsed(lambda: content["annotations"], str(path)):
        if not annotation.get("iscrowd"):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    photos = []
    for image in content["images"]:
        size = (int(image["height"]), int(image["width"]))
        # LVIS has no file names, only addresses that end with COCO's file names.
        name = image.get("file_name") or image["coco_url"].rsplit("/", 1)[-1]
        file = next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
        masks = tuple(
            MaskRecord(_run_lengths(annotation["segmentation"], size), "object")
            for annotation in by_image.get(image["id"], [])
            if annotation.get("segmentation")
        )
        photos.append(PhotoRecord(file, size, path.stem, masks=tuple(mask for mask in masks if mask.area > 0)))
    return photos


def _read_sa1b(folder: Path) -> list[PhotoRecord]:
    photos = []
    for path in sorted(folder.rglob("*.json")):
        content = _parsed(lambda: json.loads(path.read_bytes()), str(path))  # noqa: B023 - called at once
        if not isinstance(content, dict) or "image" not in content:
            continue
        image = content["image"]
        size = (int(image["height"]), int(image["width"]))
        masks = tuple(
            MaskRecord(_run_lengths(one["segmentation"], size), click=_click(one.get("point_coords")))
            for one in content.get("annotations", [])
        )
        photos.append(PhotoRecord(path.parent / image["file_name"], size, "sa1b", masks=masks))
    return photos


def _run_lengths(segmentation: Any, size: Size) -> Mapping[str, Any]:
    """Return compressed run lengths of any of COCO's three mask formats."""
    coco_mask = _coco_mask()
    if isinstance(segmentation, list):  # polygons, of which the union is one mask
        merged: Mapping[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
        return merged
    counts = segmentation["counts"]
    if isinstance(counts, list):
        compressed: Mapping[str, Any] = coco_mask.frPyObjects(segmentation, *size)
        return compressed
    return {"size": list(segmentation["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}


def _coco_mask() -> Any:
    """Import pycocotools late: training needs neither it nor Pillow if photos and masks are in memory."""
    from pycocotools import mask  # noqa: PLC0415

    return mask


def _click(coordinates: Any) -> tuple[float, float] | None:
    return (float(coordinates[0][0]), float(coordinates[0][1])) if coordinates else None


def _parsed(read: Callable[[], Any], location: str) -> Any:
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(f"{location}: {type(error).__name__}: {error}") from error
