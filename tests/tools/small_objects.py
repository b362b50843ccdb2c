"""Measures the masks of small objects in large images: the whole image embedded at once, against regions of it.

There are no photos of twelve megapixels with masks here. So photos with masks are laid out beside each other, in rows,
without scaling, into images of about 4000 x 3000 pixels. Each such image is embedded as a whole, and as regions of
1024 x 1024 pixels that begin every 512 pixels. An object is asked for in the region that holds its box with the largest
margin. Its prompts are its box, or the one pixel in it that is farthest from its background.

    python -m tests.tools.small_objects --data PHOTOS [--data MORE]

`PHOTOS` is a data set of `edgesam models evaluate`. The service runs in a process of its own.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.service_client import open_client  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

from model_store.evaluation.instances import centre_pixel  # noqa: E402
from model_store.evaluation.metrics import size_class  # noqa: E402
from model_store.training.data.annotations import PhotoRecord, read_annotations  # noqa: E402
from service.sam.masks import BinaryMask  # noqa: E402
from service.sam.region import PlacedMask, Region  # noqa: E402
from service.sam.rle import encode_rle  # noqa: E402
from service.settings import BUNDLED_MODEL  # noqa: E402

SIZE = (3000, 4000)
REGION_SIDE, REGION_STEP = 1024, 512
PROMPTS_PER_REQUEST = 64
WAYS = ("box", "click")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """An object in a large image.

    Args:
        truth: Annotation as COCO run lengths of the large image.
        area: Pixels of the annotation.
        box: Bounding box of the annotation in pixels of the image.
        click: Pixel of the annotation that is farthest from its background, (x, y) in pixels of the image.
    """

    truth: dict[str, Any]
    area: int
    box: tuple[int, int, int, int]
    click: tuple[float, float]

    def iou(self, rle: dict[str, Any]) -> float:
        """Return the IoU with a mask of the large image, without drawing their pixels."""
        return float(coco.iou([with_bytes(rle)], [self.truth], [0])[0, 0])


def with_bytes(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Return run lengths as pycocotools takes them."""
    return {"size": list(rle["size"]), "counts": rle["counts"].encode()}


@dataclass(slots=True, eq=False)
class LargeImage:
    """Photos beside each other, and the objects in them."""

    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((*SIZE, 3), np.uint8))
    targets: list[Target] = field(default_factory=list)
    photos: int = 0


def large_images(photos: Sequence[PhotoRecord]) -> Iterator[LargeImage]:
    """Yield images that are filled row by row, with the tallest photos first. The rest of an image is black."""
    image, left, top, row_height = LargeImage(), 0, 0, 0
    for photo in sorted(photos, key=lambda each: (-each.size[0], str(each.path))):
        height, width = photo.size
        if left + width > SIZE[1]:
            left, top, row_height = 0, top + row_height, 0
        if top + height > SIZE[0]:
            yield image
            image, left, top = LargeImage(), 0, 0
        image.pixels[top : top + height, left : left + width] = photo.image()
        image.photos += 1
        for record in photo.masks:
            if record.kind == "object":
                image.targets.append(_target(record.decode().astype(np.bool_), left, top))
        left, row_height = left + width, max(row_height, height)
    if image.photos:
        yield image


def _target(truth: NDArray[np.bool_], left: int, top: int) -> Target:
    height, width = truth.shape
    part = BinaryMask.cut(truth.shape, 0, 0, np.ascontiguousarray(truth))
    mask = PlacedMask(part, Region(left, top, left + width, top + height), SIZE)
    x, y = centre_pixel(truth)
    return Target(with_bytes(encode_rle(mask)), mask.area, mask.box, (x + left + 0.5, y + top + 0.5))


def regions() -> list[tuple[int, int, int, int]]:
    """Return the regions of an image; the last ones of a row and of a column end at its border."""
    tops, lefts = (sorted({min(start, side - REGION_SIDE) for start in range(0, side, REGION_STEP)}) for side in SIZE)
    return [(left, top, left + REGION_SIDE, top + REGION_SIDE) for top in tops for left in lefts]


def region_of(target: Target) -> tuple[int, int, int, int]:
    """Return the region that holds the box of an object with the largest margin."""
    x0, y0, x1, y1 = target.box
    return max(regions(), key=lambda r: min(x0 - r[0], y0 - r[1], r[2] - x1, r[3] - y1))


def embed(client: httpx.Client, file: bytes, **query: str) -> str:
    """Return the id of an image or of a region of it."""
    response = client.post("/embed", content=file, params=query)
    response.raise_for_status()
    return str(response.json()["image_id"])


def ious(client: httpx.Client, image_id: str, targets: Sequence[Target], way: str) -> list[float]:
    """Return the IoU of the first mask of each object."""
    found: list[float] = []
    for start in range(0, len(targets), PROMPTS_PER_REQUEST):
        some = targets[start : start + PROMPTS_PER_REQUEST]
        prompts = [{"box": each.box} if way == "box" else {"points": [each.click]} for each in some]
        response = client.post("/segment", json={"image_hash": image_id, "prompts": prompts})
        response.raise_for_status()
        results = response.json()["results"]
        found += [each.iou(result["masks"][0]["rle"]) for each, result in zip(some, results, strict=True)]
    return found


def measure(client: httpx.Client, image: LargeImage) -> dict[tuple[str, str], list[float]]:
    """Return the IoU of each object by (`whole` or `region`, way of prompting)."""
    measured: dict[tuple[str, str], list[float]] = {}
    file = io.BytesIO()
    Image.fromarray(image.pixels).save(file, "PNG", compress_level=1)
    whole = embed(client, file.getvalue())
    for way in WAYS:
        measured["whole", way] = ious(client, whole, image.targets, way)
        measured["region", way] = [0.0] * len(image.targets)
    places = [region_of(target) for target in image.targets]
    for place in sorted(set(places)):
        indices = [index for index, each in enumerate(places) if each == place]
        image_id = embed(client, file.getvalue(), region=",".join(map(str, place)))
        for way in WAYS:
            for index, iou in zip(
                indices, ious(client, image_id, [image.targets[i] for i in indices], way), strict=True
            ):
                measured["region", way][index] = iou
    return measured


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="Data set with masks. May be repeated.")
    parser.add_argument("--model", default=str(BUNDLED_MODEL), help="Folder of the model; the bundled one by default.")
    arguments = parser.parse_args()
    records = [photo for source in arguments.data for photo in read_annotations(source)]
    photos = [photo for photo in records if any(mask.kind == "object" for mask in photo.masks)]
    classes: list[str] = []
    measured: dict[tuple[str, str], list[float]] = {}
    # Comparing masks may take longer than the service keeps a connection open.
    limits = httpx.Limits(max_keepalive_connections=0)
    settings = {"EDGESAM_MODEL_DIR": arguments.model}
    with ServiceProcess(settings) as service, open_client(service.url, limits=limits) as client:
        for image in large_images(photos):
            classes += [size_class(target.area) for target in image.targets]
            for key, values in measure(client, image).items():
                measured.setdefault(key, []).extend(values)
            print(f"{image.photos} photos, {len(image.targets)} objects", file=sys.stderr)
            print(table(classes, measured), file=sys.stderr, flush=True)
    print(table(classes, measured))


def table(classes: Sequence[str], measured: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """Return the mean IoU of the objects of each class of size, as a table."""
    lines = [
        "| objects | number | box, whole | box, region | click, whole | click, region |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ("small", "medium", "large", "all"):
        chosen = [index for index, each in enumerate(classes) if name in (each, "all")]
        columns = [(part, way) for way in WAYS for part in ("whole", "region")]
        means = [float(np.mean([measured[column][index] for index in chosen])) for column in columns if chosen]
        lines.append(f"| {name} | {len(chosen)} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
