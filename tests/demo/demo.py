"""The service's main job on a real photo: embed it, click on it, look at the masks. `make demo`.

Starts a service of its own unless `--url` names one; writes the photo with the masks drawn over it.
"""

import argparse
import io
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

COLOURS = ((31, 119, 255), (255, 111, 31), (46, 184, 92))
# On scikit-image's "Chelsea": a click on the face, a box around the head, a box with a point that is not wanted.
PROMPTS = (
    {"points": [{"x": 225, "y": 130, "label": 1}]},
    {"box": [110, 10, 345, 245]},
    {"box": [110, 10, 345, 245], "points": [{"x": 330, "y": 230, "label": 0}]},
)


def main() -> None:
    """Run both requests and show what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    parser.add_argument("--photo", type=Path, help="a photo of your own instead of scikit-image's cat")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo.png")
    arguments = parser.parse_args()

    data = arguments.photo.read_bytes() if arguments.photo else cat()
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(ServiceProcess({})).url
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        model = client.get("/models").raise_for_status().json()["models"][0]
        print(f"model {model['name']}, {'trained' if model['trained'] else 'NOT TRAINED: the masks mean nothing'}")
        embedded = show("POST /embed", client.post("/embed", files={"image": data}))
        prompts = [scaled(prompt, embedded) for prompt in PROMPTS]
        request = {"image_hash": embedded["image_hash"], "prompts": prompts}
        answer = show("POST /segment", client.post("/segment", json=request))
        show("POST /segment", client.post("/segment", json=request))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    overlay(data, prompts, answer).save(arguments.out)
    print(f"written: {arguments.out}")


def cat() -> bytes:
    """scikit-image's CC0 photo as PNG bytes."""
    from skimage import data

    buffer = io.BytesIO()
    Image.fromarray(data.chelsea()).save(buffer, "PNG")
    return buffer.getvalue()


def scaled(prompt: dict, embedded: dict) -> dict:
    """The prompt for a picture of another size than the cat's 451 by 300."""
    x, y = embedded["width"] / 451, embedded["height"] / 300
    points = [{**point, "x": point["x"] * x, "y": point["y"] * y} for point in prompt.get("points", [])]
    box = [value * (x, y)[i % 2] for i, value in enumerate(prompt["box"])] if "box" in prompt else None
    return {"points": points, "box": box}


def show(what: str, response: httpx.Response) -> dict:
    """Print the stages of an answer; its JSON."""
    if response.is_error:
        sys.exit(f"{what}: {response.status_code} {response.text}")
    print(f"{what}: {response.status_code}, {len(response.content)} bytes; {response.headers['server-timing']}")
    return response.json()


def overlay(data: bytes, prompts: list[dict], answer: dict) -> Image.Image:
    """The photo beside itself with each prompt's best mask in a colour."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    drawn = np.asarray(photo, np.float32)
    for colour, result in zip(COLOURS, answer["results"], strict=True):
        best = result["masks"][0]
        print(f"  mask: score {best['score']:.3f}, {best['area']} pixels, box {best['box']}")
        is_inside = coco.decode(best["rle"]).astype(bool)
        drawn = np.where(is_inside[..., None], 0.55 * drawn + 0.45 * np.array(colour, np.float32), drawn)
    picture = Image.fromarray(drawn.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for colour, prompt in zip(COLOURS, prompts, strict=True):
        if prompt["box"]:
            pen.rectangle(prompt["box"], outline=colour, width=2)
        for point in prompt["points"]:
            x, y = point["x"], point["y"]
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour if point["label"] else (200, 0, 0), outline="white")
    both = Image.new("RGB", (photo.width * 2, photo.height))
    both.paste(photo, (0, 0))
    both.paste(picture, (photo.width, 0))
    return both


if __name__ == "__main__":
    main()
