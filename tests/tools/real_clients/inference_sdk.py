"""Calls a service with Roboflow's real inference-sdk: `python tests/tools/real_clients/inference_sdk.py`.

The SDK is installed into an environment of its own; `--python` names an existing one.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
# Not the folder of this file: it would hide the SDK from this name.
sys.path[:] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools"), *sys.path[1:]]

import cv2  # noqa: E402
import httpx  # noqa: E402
import numpy as np  # noqa: E402
import pycocotools.mask  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from real_clients.environment import check, run_inside, tool_python  # noqa: E402
from support.service_client import embed, open_client, segment  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

REQUIREMENT = "inference-sdk==1.8.3"
KEY = "a key of at least sixteen characters"
IMAGE = ROOT / "service" / "web" / "samples" / "dahlia.jpg"
CLICK = (270, 210)
BOX = (285, 370, 452, 427)  # x0, y0, x1, y1


def main() -> None:
    """Compare the SDK's answers with /segment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has the SDK")
    python = parser.parse_args().python or tool_python("inference-sdk", REQUIREMENT)
    settings = {"EDGESAM_ADAPTERS": "roboflow", "EDGESAM_API_KEYS": json.dumps([KEY])}
    with (
        ServiceProcess(settings) as service,
        open_client(service.url, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        found = ask(python, service.url)
        expected = [masks_of(client, prompt) for prompt in ({"points": [click_point()]}, {"box": list(BOX)})]
    digest = hashlib.sha256(IMAGE.read_bytes()).hexdigest()
    check("image_id of sam3_embed_image", holds=found["embedded"]["image_id"] == digest, seen=digest[:12])
    for name in ("sam2", "sam2_rle", "sam3"):
        for index, prediction in enumerate(found[name]["predictions"]):
            overlap = iou(pixels_of(prediction, expected[index].shape), expected[index])
            check(f"{name}, prompt {index}, IoU with /segment", holds=overlap > 0.98, seen=round(overlap, 4))
    refused = found["refusal"]
    holds = refused["status"] == 422 and "outside" in refused["message"]
    check("what the SDK tells about a point outside the image", holds=holds, seen=refused)


def click_point() -> dict[str, int]:
    """Return the click as a point of /segment."""
    return {"x": CLICK[0], "y": CLICK[1], "label": 1}


def ask(python: Path, url: str) -> Any:
    """Return the SDK's answers for a click and a box."""
    x0, y0, x1, y1 = BOX
    box = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}
    prompts = [{"points": [{"x": CLICK[0], "y": CLICK[1], "positive": True}]}, {"box": box}]
    outside = [{"points": [{"x": 5000, "y": 5, "positive": True}]}]
    texts = ("--prompts", json.dumps(prompts), "--outside", json.dumps(outside))
    return run_inside(python, "inference_sdk_calls.py", "--server", url, "--key", KEY, "--image", str(IMAGE), *texts)


def masks_of(client: httpx.Client, prompt: dict[str, Any]) -> NDArray[np.bool_]:
    """Return the mask (H, W) that /segment ranks first, as adapters ask for it."""
    masks = segment(client, embed(client, IMAGE.read_bytes()), prompt, cleanup="auto")[0]
    decoded: NDArray[np.bool_] = pycocotools.mask.decode(masks[0]["rle"]).astype(np.bool_)
    return decoded


def pixels_of(prediction: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a prediction: run lengths, or polygons without holes."""
    if prediction["format"] == "rle":
        return pycocotools.mask.decode(prediction["masks"]).astype(np.bool_)  # type: ignore[no-any-return]
    pixels = np.zeros(shape, np.uint8)
    for ring in prediction["masks"]:
        cv2.fillPoly(pixels, [np.rint(np.array(ring)).astype(np.int32)], 1)
    return pixels.astype(np.bool_)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


if __name__ == "__main__":
    main()
