"""The service's main job on the sample images: embed each, ask for an object, look at its mask. `make demo`.

Starts a service of its own unless `--url` names one; writes the images with the masks drawn over them.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import httpx  # noqa: E402
from drawing import cell, draw_mask, sheet  # noqa: E402
from PIL import Image  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from support.sample_images import sample_images  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

HEIGHT = 320
MOST_WIDTH = 1200


def main() -> None:
    """Ask for one object of each image and show what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--image", type=Path, help="an image of your own, clicked on in the middle, instead of the samples"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo.png")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(ServiceProcess({})).url
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        model = client.get("/models").raise_for_status().json()["models"][0]
        print(f"model {model['name']}, {'trained' if model['trained'] else 'NOT TRAINED: the masks mean nothing'}")
        if arguments.image:
            drawn = [segmented(client, arguments.image, None)]
        else:
            drawn = [segmented(client, sample.path, sample.prompt) for sample in sample_images()]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(in_rows([cell(each, HEIGHT) for each in drawn])).save(arguments.out)
    print(f"written: {arguments.out}")


def segmented(client: httpx.Client, path: Path, prompt: dict[str, Any] | None) -> Image.Image:
    """Return an image with the best mask of a prompt; without one, of a click in the middle."""
    print(path.name)
    data = path.read_bytes()
    embedded = answered("POST /embed", client.post("/embed", files={"image": data}))
    prompt = prompt or {"points": [{"x": embedded["width"] / 2, "y": embedded["height"] / 2}]}
    request = {"image_hash": embedded["image_hash"], "prompts": [prompt]}
    answer = answered("POST /segment", client.post("/segment", json=request))
    best = answer["results"][0]["masks"][0]
    print(f"  mask: score {best['score']:.3f}, {best['area']} pixels, box {best['box']}")
    mask = coco.decode(best["rle"]).astype(bool)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return draw_mask(image, mask, prompt)


def answered(what: str, response: httpx.Response) -> dict[str, Any]:
    """Print the stages of an answer; return its JSON."""
    if response.is_error:
        sys.exit(f"{what}: {response.status_code} {response.text}")
    print(f"  {what}: {response.status_code}, {len(response.content)} bytes; {response.headers['server-timing']}")
    content: dict[str, Any] = response.json()
    return content


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
