"""Finding all objects: the route compared with the same prompts, with `fast`, and with SAM's official generator."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from tools.bench.connection import Connection, request
from tools.bench.models import export_checkpoint
from tools.bench.official_generator import OfficialGenerator
from tools.bench.samples import COLUMNS, Samples, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

from service.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[4]
ARTIFACT = ROOT / "model_store" / "artifacts" / "edgesam-lite"
CHECKPOINT = ROOT / "model_store" / "checkpoints" / "edgesam-lite.safetensors"
SAMPLE = ROOT / "service" / "web" / "samples" / "drum.jpg"
PROMPTS_PER_REQUEST = 64
SAME_IOU = 0.9
"""IoU from which two masks count as the same."""

PROMPTS, PLAIN, FAST = "the prompts to /segment, 64 a request", "everything", "everything, fast"
OFFICIAL, OFFICIAL_GRAPH = "official steps, PyTorch", "official steps, official decoder graph"


def measure(bench: Workbench) -> Section:
    """Measure the bundled checkpoint on a photo of the page, with the bundled model's defaults."""
    defaults = load_manifest(ARTIFACT).everything_defaults
    data = SAMPLE.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        image = np.asarray(opened.convert("RGB"))
    export_checkpoint(CHECKPOINT, bench.folder / "checkpoint", defaults)
    service = bench.start_service(EDGESAM_MODEL_DIR=str(bench.folder / "checkpoint"))
    connection = bench.connect(service.url)
    upload = connection.ask(request("POST", "/embed", data, headers={"Content-Type": "image/jpeg"})).json()
    image_hash = upload["image_hash"]
    side = defaults.points_per_side
    points = [((i % side + 0.5) * upload["width"] / side, (i // side + 0.5) * upload["height"] / side)
              for i in range(side**2)]  # fmt: skip
    official = OfficialGenerator(CHECKPOINT, image, defaults, folder=bench.folder, threads=bench.cpus)
    asked: dict[str, Any] = {"image_hash": image_hash}
    samples = interleaved(
        {
            PROMPTS: partial(_segment, connection, image_hash, points),
            PLAIN: partial(_everything, connection, asked),
            FAST: partial(_everything, connection, asked | {"fast": True}),
            OFFICIAL: partial(_official, official, uses_graph=False),
            OFFICIAL_GRAPH: partial(_official, official, uses_graph=True),
        },
        bench.effort.encoder_rounds,
        1,
        warms=False,
    )
    plain, reference = _masks(samples[PLAIN]), _masks(samples[OFFICIAL])
    table = Table("", ["", *COLUMNS, "÷ the prompts", "masks", "masks a second", "of the plain masks, %"])
    for name, own in samples.items():
        row = [name, *own.cells(), own.p50 / samples[PROMPTS].p50]
        if name == PROMPTS:
            table.rows.append([*row, 4 * len(points), 4000 * len(points) / own.p50, None])
            continue
        masks = _masks(own)
        table.rows.append([*row, len(masks), 1000 * len(masks) / own.p50, 100 * _recall(masks, plain)])
    return Section(
        "All objects of an image",
        f"""
            The bundled checkpoint with the bundled model's defaults ({side} points a side) on {SAMPLE.name},
            {upload["width"]} x {upload["height"]} pixels. The official generator's steps run on the same weights, at
            the size of the image; {100 * _recall(plain, reference):.0f} % of its masks are in the result
            of the service. Two masks count as the same from an IoU of {SAME_IOU}. Only the service removes small
            regions.
            """,
        [table],
        {
            "everything.ratio": samples[PLAIN].p50 / samples[PROMPTS].p50,
            "everything.official_ratio": samples[OFFICIAL].p50 / samples[PLAIN].p50,
        },
    )


def _segment(connection: Connection, image_hash: str, points: list[tuple[float, float]]) -> None:
    for start in range(0, len(points), PROMPTS_PER_REQUEST):
        prompts = [{"points": [{"x": x, "y": y, "label": 1}]} for x, y in points[start : start + PROMPTS_PER_REQUEST]]
        body = json.dumps({"image_hash": image_hash, "prompts": prompts}).encode()
        connection.ask(request("POST", "/segment", body))


def _everything(connection: Connection, asked: dict[str, Any]) -> list[dict[str, Any]]:
    answer = connection.ask(request("POST", "/segment/everything", json.dumps(asked).encode())).json()
    return [mask["segmentation"] for mask in answer["masks"]]


def _official(generator: OfficialGenerator, *, uses_graph: bool) -> list[dict[str, Any]]:
    return [coco.encode(np.asfortranarray(mask.view(np.uint8))) for mask in generator.masks(uses_graph=uses_graph)]


def _masks(samples: Samples) -> list[dict[str, Any]]:
    masks: list[dict[str, Any]] = samples.answers[-1]
    return masks


def _recall(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> float:
    """Return the share of the reference masks that some mask found has at least `SAME_IOU` with."""
    if not found or not reference:
        return float(not reference)
    iou = np.asarray(coco.iou(found, reference, [0] * len(reference)))
    return float((iou.max(axis=0) >= SAME_IOU).mean())
