"""Draws the model card's masks on freely licensed photos: `python tests/tools/demo/card.py`.

The photos are the page's samples and some of scikit-image's. Each mask has the verdict of a person who looked at it.
A verdict holds for one artifact: after replacing it, look at every mask again and correct what has changed.
"""

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import httpx  # noqa: E402
from drawing import cell, draw_mask, sheet  # noqa: E402
from PIL import Image  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from skimage import data  # noqa: E402
from support.sample_images import sample_images  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

from service.settings import BUNDLED_MODEL  # noqa: E402

HEIGHT = 210


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and how good its mask is.

    Args:
        photo: File name of a sample image, or name of a photo of scikit-image.
        prompt: Prompt of `/segment`, in pixels of the photo.
        verdict: `right`, `partly` or `wrong`, and what is wrong.
    """

    photo: str
    prompt: dict[str, Any]
    verdict: str


def click(x: float, y: float) -> dict[str, Any]:
    """Return a prompt of one click."""
    return {"points": [{"x": x, "y": y}]}


def box(*corners: float) -> dict[str, Any]:
    """Return a prompt of one box x0, y0, x1, y1."""
    return {"box": corners}


RIGHT = [Example(sample.file, sample.prompt, "right") for sample in sample_images()]
PARTLY = [
    Example("coffee", click(300, 200), "partly: holes in the saucer"),
    Example("chelsea", click(225, 130), "partly: ragged below"),
    Example("rocket", click(322, 230), "partly: its upper part"),
    Example("dogs.jpg", click(205, 230), "partly: and cloth"),
    Example("drum.jpg", click(310, 230), "partly: some of the table"),
]
WRONG = [
    Example("astronaut", box(375, 20, 512, 360), "wrong: half of it, and wall"),
    Example("pagoda.jpg", click(500, 220), "wrong: a piece of the lake, ragged"),
    Example("drum.jpg", click(200, 620), "wrong: seat and drum"),
    Example("rocket", box(0, 0, 90, 427), "wrong: the sky behind the tower"),
]


def main() -> None:
    """Ask, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an artifact; default: the bundled one")
    parser.add_argument("--out", type=Path, default=BUNDLED_MODEL / "examples.jpg")
    arguments = parser.parse_args()
    settings = {"EDGESAM_MODEL_DIR": str(arguments.model)} if arguments.model else {}
    with ServiceProcess(settings) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        rows = [[_cell(client, example) for example in row] for row in (RIGHT, PARTLY, WRONG)]
    sheet(rows).save(arguments.out, quality=85)
    print(f"written: {arguments.out}; look at it: are the verdicts true?")


def _cell(client: httpx.Client, example: Example) -> Image.Image:
    photo = _photo(example.photo)
    file = io.BytesIO()
    photo.save(file, "PNG")
    image_hash = client.post("/embed", content=file.getvalue()).raise_for_status().json()["image_hash"]
    request = {"image_hash": image_hash, "prompts": [example.prompt]}
    (result,) = client.post("/segment", json=request).raise_for_status().json()["results"]
    mask = coco.decode(result["masks"][0]["rle"]).astype(bool)
    return cell(draw_mask(photo, mask, example.prompt), HEIGHT, example.verdict)


def _photo(name: str) -> Image.Image:
    samples = {sample.file: sample.path for sample in sample_images()}
    return (Image.open(samples[name]) if name in samples else Image.fromarray(getattr(data, name)())).convert("RGB")


if __name__ == "__main__":
    main()
