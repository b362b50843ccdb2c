"""Embed each sample image, segment one object of it, and write the images with their masks. `make demo`.

Starts a service of its own unless `--url` names one. Needs the packages of `make serve` and no others.
"""

import argparse
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from drawing import cell, draw_mask, sheet  # noqa: E402
from PIL import Image  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from support.sample_images import sample_images  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

HEIGHT = 320
MOST_WIDTH = 1200


def main() -> None:
    """Segment one object of each image and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--image", type=Path, help="an image of your own, clicked on in the middle, instead of the samples"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo.png")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(ServiceProcess({})).url
        model = answer_of(url, "GET /models")["models"][0]
        print(f"model {model['name']}, {'trained' if model['trained'] else 'NOT TRAINED: the masks mean nothing'}")
        if arguments.image:
            drawn = [segmented(url, arguments.image, None)]
        else:
            drawn = [segmented(url, sample.path, sample.prompt) for sample in sample_images()]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(in_rows([cell(each, HEIGHT) for each in drawn])).save(arguments.out)
    print(f"written: {arguments.out}")


def segmented(url: str, path: Path, prompt: dict[str, Any] | None) -> Image.Image:
    """Return an image with the best mask of a prompt; without one, of a click in the middle."""
    print(path.name)
    data = path.read_bytes()
    embedded = answer_of(url, "POST /embed", data)
    prompt = prompt or {"points": [{"x": embedded["width"] / 2, "y": embedded["height"] / 2}]}
    request = {"image_hash": embedded["image_hash"], "prompts": [prompt]}
    answer = answer_of(url, "POST /segment", json.dumps(request).encode())
    best = answer["results"][0]["masks"][0]
    print(f"  mask: score {best['score']:.3f}, {best['area']} pixels, box {best['box']}")
    mask = coco.decode(best["rle"]).astype(bool)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return draw_mask(image, mask, prompt)


def answer_of(url: str, request: str, body: bytes | None = None) -> dict[str, Any]:
    """Return the JSON of an answer; print its stages where it has a body. Ends the process with an error's text.

    Args:
        url: Address of the service.
        request: Method and path, such as `POST /embed`.
        body: Image file or JSON.
    """
    method, path = request.split()
    headers = {"Content-Type": "application/json" if path == "/segment" else "application/octet-stream"}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(
            urllib.request.Request(url.rstrip("/") + path, body, headers, method=method), timeout=60
        ) as response:
            content = response.read()
            timing = response.headers["server-timing"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{request}: {error.code} {error.read().decode()}")
    except urllib.error.URLError as error:
        sys.exit(f"{request}: {url} cannot be reached: {error.reason}")
    if body is not None:
        print(f"  {request}: {len(content)} bytes; {timing}")
    answer: dict[str, Any] = json.loads(content)
    return answer


def in_rows(cells: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Break cells into rows of at most MOST_WIDTH pixels; each has at least one cell."""
    rows: list[list[Image.Image]] = [[]]
    for each in cells:
        if rows[-1] and sum(other.width for other in rows[-1]) + each.width > MOST_WIDTH:
            rows.append([])
        rows[-1].append(each)
    return rows


if __name__ == "__main__":
    main()
