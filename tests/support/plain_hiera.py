"""Hiera window by window and head by head, along its definition: the reference of the fast form.

Maps are (H, W, C) for one image, in rows and columns. Windows are padded with zeros before the projections.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class PlainBlock:
    """Sizes of a block.

    Attributes:
        heads: Number of attention heads.
        window: Side of its windows on its input's grid; None for attention to the whole map.
        is_first: Whether the block begins a stage after the first one.
        is_last: Whether the block ends a stage.
    """

    heads: int
    window: int | None
    is_first: bool = False
    is_last: bool = False


def plain_trunk(arrays: Mapping[str, Tensor], blocks: Sequence[PlainBlock], image: Tensor) -> list[Tensor]:
    """Return the ends of the four stages, each (C, H, W).

    Args:
        arrays: Parameters of the trunk by their names in published files, without the prefix.
        blocks: Sizes of all blocks.
        image: Image, (3, S, S).
    """
    patches = functional.conv2d(
        image[None], arrays["patch_embed.proj.weight"], arrays["patch_embed.proj.bias"], stride=4, padding=3
    )
    side = patches.shape[2]
    position = functional.interpolate(arrays["pos_embed"], size=(side, side), mode="bicubic", align_corners=False)
    window = arrays["pos_embed_window"]
    position = position + window.tile(1, 1, side // window.shape[2], side // window.shape[3])
    x = (patches + position)[0].permute(1, 2, 0)  # (H, W, C)
    ends = []
    for index, block in enumerate(blocks):
        prefix = f"blocks.{index}."
        own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        x = _block(own, block, x)
        if block.is_last:
            ends.append(x.permute(2, 0, 1))
    return ends


def _block(arrays: Mapping[str, Tensor], block: PlainBlock, x: Tensor) -> Tensor:
    normed = _norm(arrays, "norm1", x)
    shortcut = _maximum_of_squares(_linear(arrays, "proj", normed)) if block.is_first else x
    x = shortcut + _attention(arrays, block, normed)
    hidden = functional.gelu(_linear(arrays, "mlp.layers.0", _norm(arrays, "norm2", x)), approximate="none")
    return x + _linear(arrays, "mlp.layers.1", hidden)


def _attention(arrays: Mapping[str, Tensor], block: PlainBlock, x: Tensor) -> Tensor:
    """(H, W, C_in) -> (H, W, C), or (H/2, W/2, C) of a block that begins a stage."""
    height, width, channels = x.shape
    window = block.window or height
    rows, columns = math.ceil(height / window), math.ceil(width / window)
    padded = torch.zeros(rows * window, columns * window, channels)
    padded[:height, :width] = x
    step = 2 if block.is_first else 1
    out = window // step
    result = torch.zeros(rows * out, columns * out, arrays["attn.proj.bias"].shape[0])
    for row in range(rows):
        for column in range(columns):
            part = padded[row * window : (row + 1) * window, column * window : (column + 1) * window]
            attended = _linear(arrays, "attn.proj", _attend(arrays, block, part))
            result[row * out : (row + 1) * out, column * out : (column + 1) * out] = attended
    return result[: height // step, : width // step]


def _attend(arrays: Mapping[str, Tensor], block: PlainBlock, x: Tensor) -> Tensor:
    """Attention within one window, (h, w, C_in) -> (u, v, C)."""
    query, key, value = _linear(arrays, "attn.qkv", x).tensor_split(3, dim=2)
    if block.is_first:
        query = _maximum_of_squares(query)
    heads = []
    for q, k, v in zip(*(part.tensor_split(block.heads, dim=2) for part in (query, key, value)), strict=True):
        scores = q.flatten(0, 1) @ k.flatten(0, 1).T / math.sqrt(q.shape[2])
        heads.append((scores.softmax(dim=1) @ v.flatten(0, 1)).reshape(q.shape))
    return torch.cat(heads, dim=2)


def _maximum_of_squares(x: Tensor) -> Tensor:
    return functional.max_pool2d(x.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)


def _linear(arrays: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def _norm(arrays: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(2, keepdim=True)
    return (
        centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt() * arrays[f"{name}.weight"]
        + arrays[f"{name}.bias"]
    )
