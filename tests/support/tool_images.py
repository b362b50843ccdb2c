"""Images as labelling tools send them, and the masks that they should receive."""

import base64
from typing import Any

import httpx
import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from support.service_client import embed, segment


def as_base64(data: bytes) -> str:
    """Return a file in base64."""
    return base64.b64encode(data).decode()


def as_data_uri(data: bytes) -> str:
    """Return a file as a data URI."""
    return f"data:image/png;base64,{as_base64(data)}"


def best_mask(client: httpx.Client, data: bytes, prompt: dict[str, Any], **options: Any) -> NDArray[np.bool_]:
    """Return the mask (H, W) that /segment ranks first, cleaned as for tools."""
    masks = segment(client, embed(client, data), prompt, cleanup="auto", **options)[0]
    return pycocotools.mask.decode(masks[0]["rle"]).astype(np.bool_)


def best_outlines(client: httpx.Client, data: bytes, prompt: dict[str, Any], **options: Any) -> list[list[list[float]]]:
    """Return the exterior rings of the mask that /segment ranks first, cleaned as for tools."""
    masks = segment(client, embed(client, data), prompt, format="polygon", cleanup="auto", **options)[0]
    return [part["exterior"] for part in masks[0]["polygon"]]
