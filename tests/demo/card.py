"""The picture of the model card: masks of the bundled model on freely licensed photos. `python tests/demo/card.py`.

One row a photo of scikit-image: the prompt, and what the service answers to it. Good and bad answers alike.
"""

import argparse
import io
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from skimage import data  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

# Photo, then three prompts: pixels of the photo.
PROMPTS = {
    "chelsea": ({"points": [(225, 130)]}, {"box": (100, 0, 360, 290)}, {"points": [(172, 105)]}),
    "coffee": ({"points": [(300, 150)]}, {"box": (75, 15, 480, 395)}, {"points": [(450, 300)]}),
    "rocket": ({"points": [(322, 200)]}, {"box": (295, 90, 350, 330)}, {"points": [(140, 300)]}),
    "coins": ({"points": [(44, 193)]}, {"box": (20, 98, 70, 150)}, {"box": (305, 13, 364, 72)}),
}
CELL_HEIGHT = 220
COLOUR = np.array([31, 119, 255])


def main() -> None:
    """Ask, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an artifact; default: the bundled one")
    parser.add_argument("--out", type=Path, default=ROOT / "model_store/artifacts/edgesam-lite/examples.jpg")
    arguments = parser.parse_args()
    settings = {"EDGESAM_MODEL_DIR": str(arguments.model)} if arguments.model else {}
    with ServiceProcess(settings) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        rows = [_row(client, name) for name in PROMPTS]
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate(
        [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )
    Image.fromarray(sheet).save(arguments.out, quality=85)
    print(f"written: {arguments.out}")


def _row(client: httpx.Client, name: str) -> NDArray[np.uint8]:
    photo = getattr(data, name)()
    photo = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    image_hash = client.post("/embed", content=file.getvalue()).raise_for_status().json()["image_hash"]
    prompts = [_as_json(prompt) for prompt in PROMPTS[name]]
    answer = client.post("/segment", json={"image_hash": image_hash, "prompts": prompts}).raise_for_status().json()
    cells = []
    for prompt, result in zip(PROMPTS[name], answer["results"], strict=True):
        mask = coco.decode(result["masks"][0]["rle"]).astype(bool)
        drawn = np.where(mask[..., None], 0.45 * photo + 0.55 * COLOUR, photo).astype(np.uint8)
        cells.append(_with_prompt(drawn, prompt))
    return np.concatenate(cells, axis=1)


def _as_json(prompt: dict[str, object]) -> dict[str, object]:
    points = [{"x": x, "y": y} for x, y in prompt.get("points", ())]  # type: ignore[attr-defined]
    return {"points": points} if points else {"box": list(prompt["box"])}  # type: ignore[call-overload]


def _with_prompt(drawn: NDArray[np.uint8], prompt: dict[str, object]) -> NDArray[np.uint8]:
    image = Image.fromarray(drawn)
    pen = ImageDraw.Draw(image)
    for x, y in prompt.get("points", ()):  # type: ignore[attr-defined]
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill="white", outline="black", width=2)
    if "box" in prompt:
        pen.rectangle(prompt["box"], outline="white", width=3)  # type: ignore[arg-type]
    width = round(image.width * CELL_HEIGHT / image.height)
    cell = np.asarray(image.resize((width, CELL_HEIGHT), Image.Resampling.LANCZOS))
    return np.pad(cell, ((0, 0), (0, 4), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
