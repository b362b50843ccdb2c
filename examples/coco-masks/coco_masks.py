"""Adds masks to a COCO file that has boxes: COCO in, COCO out.

python coco_masks.py boxes.json photos masks.json

Each annotation gets a `segmentation` (run lengths, which pycocotools reads), an `area` and a `score` by its `bbox`.
Everything else in the file stays as it is. Images are embedded one after the other. The boxes of an image are sent in
requests of 32.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgesam_client import Client, ClientError, Mask, Prompt

PROMPTS_PER_REQUEST = 32


def main(boxes: Path, photos: Path, masks: Path) -> int:
    """Write the file with masks, and return the number of images that failed."""
    dataset = json.loads(boxes.read_text(encoding="utf-8"))
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in dataset["annotations"]:
        of_image[annotation["image_id"]].append(annotation)

    failed = 0
    url = os.environ.get("EDGESAM_URL", "http://127.0.0.1:8000")
    with Client(url, os.environ.get("EDGESAM_API_KEY")) as client:
        for image in dataset["images"]:
            annotations = of_image[image["id"]]
            try:
                found = masks_of_boxes(client, photos / image["file_name"], annotations)
                for annotation, mask in zip(annotations, found, strict=True):
                    annotation.update(segmentation=mask.run_lengths, area=mask.area, score=mask.score)
            except (ClientError, OSError) as error:
                failed += 1
                print(f"{image['file_name']}: {error}", file=sys.stderr)
    masks.write_text(json.dumps(dataset), encoding="utf-8")
    return failed


def masks_of_boxes(client: Client, photo: Path, annotations: Sequence[dict[str, Any]]) -> Iterator[Mask]:
    """Yield the best mask of each annotation's box."""
    image = client.embed(photo)
    prompts = [Prompt(box=corners(annotation["bbox"])) for annotation in annotations]
    for start in range(0, len(prompts), PROMPTS_PER_REQUEST):
        answer = client.segment(image, prompts[start : start + PROMPTS_PER_REQUEST], multimask=1)
        yield from (masks[0] for masks in answer.results)


def corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of COCO's x, y, width, height."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python coco_masks.py BOXES.json PHOTOS_FOLDER MASKS.json")
    sys.exit(1 if main(*map(Path, sys.argv[1:])) else 0)
