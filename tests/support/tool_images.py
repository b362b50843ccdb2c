"""Images as labelling tools send them, and the masks they should get back."""

import base64
from typing import Any

import httpx
import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from support.service_client import embed, segment


def as_base64(data: bytes) -> str:
    """What stands in a tool's JSON."""
    return base64.b64encode(data).decode()


def as_data_uri(data: bytes) -> str:
    """The same as an address."""
    return f"data:image/png;base64,{as_base64(data)}"


def best_mask(client: httpx.Client, data: bytes, prompt: dict[str, Any], **options: Any) -> NDArray[np.bool_]:
    """The (H, W) mask that /segment ranks first."""
    masks = segment(client, embed(client, data), prompt, **options)[0]
    return pycocotools.mask.decode(masks[0]["rle"]).astype(np.bool_)


def best_outlines(client: httpx.Client, data: bytes, prompt: dict[str, Any], **options: Any) -> list[list[list[float]]]:
    """The exteriors of the mask that /segment ranks first."""
    masks = segment(client, embed(client, data), prompt, format="polygon", **options)[0]
    return [part["exterior"] for part in masks[0]["polygon"]]
