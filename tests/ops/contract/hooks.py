"""Hooks of Schemathesis that put a real image into generated requests. Without them every request would be refused."""

import os
from pathlib import Path
from typing import Any

import schemathesis

IMAGES = [path.read_bytes() for path in sorted(Path(os.environ["CONTRACT_IMAGES"]).iterdir())]
IMAGE_HASH = os.environ["CONTRACT_IMAGE_HASH"]


WIDTH, HEIGHT = 64, 48


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give valid requests an image file, the hash of an embedded image, and points inside it."""
    if case.meta is not None and not case.meta.generation.mode.is_positive:
        return
    if case.path == "/embed" and case.method == "POST":
        image = IMAGES[len(repr(case.body)) % len(IMAGES)]
        case.body = {"image": image} if case.media_type == "multipart/form-data" else image
    if case.path == "/segment" and isinstance(case.body, dict):
        case.body = {**case.body, "image_hash": IMAGE_HASH, "granularity": "off"}
        for prompt in case.body.get("prompts", ()):
            put_inside(prompt)
    if case.method in {"HEAD", "GET"} and "image_hash" in (case.path_parameters or {}):
        case.path_parameters["image_hash"] = IMAGE_HASH


def put_inside(prompt: dict[str, Any]) -> None:
    """Move the points of a prompt into the image, and remove mask prompts, which cannot be generated."""
    prompt.pop("mask_id", None)
    prompt.pop("mask_logits", None)
    prompt.pop("box", None)
    for point in prompt.get("points", ()):
        point["x"], point["y"] = abs(point["x"]) % WIDTH, abs(point["y"]) % HEIGHT
    if not prompt.get("points"):
        prompt["points"] = [{"x": 1, "y": 1}]
