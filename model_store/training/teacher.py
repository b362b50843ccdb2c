"""Teachers of distillation: SAM with its ViT-B, L or H encoder, under SAM's own keys, or an EdgeSAM checkpoint.

SAM's prompt encoder and mask decoder are EdgeSAM's (docs/explanation/model.md, section 0): a teacher is another image
encoder before the same parts.

Letters: B images, H, W the grid of patches (64 in a frame of 1024), C channels, h heads, d = C/h, w side of a window.
Source: SAM (arXiv 2304.02643) and its plain ViT detector (arXiv 2203.16527).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.catalog import ModelStoreError
from model_store.checkpoint import CheckpointError, load_checkpoint
from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS
from model_store.network.layer_norm import LayerNorm2d
from model_store.network.mask_decoder import MaskDecoder
from model_store.network.model import PromptableModel
from model_store.network.prompt_encoder import PromptEncoder

Variant = Literal["vit_b", "vit_l", "vit_h"]

PATCH = 16
WINDOW = 14
NORM_EPSILON = 1e-6  # nn.LayerNorm's default is 1e-5


class TeacherError(ModelStoreError):
    """The file is not a known teacher; the message states the difference."""


@dataclass(frozen=True, slots=True)
class ViTShape:
    """Size of a ViT encoder.

    Args:
        channels: Number of channels.
        depth: Number of blocks.
        heads: Number of attention heads.
        global_blocks: Indices of the blocks that attend to the whole image.
    """

    channels: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


SHAPES: Mapping[Variant, ViTShape] = {
    "vit_b": ViTShape(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": ViTShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": ViTShape(1280, 32, 16, (7, 15, 23, 31)),
}


class SAM(nn.Module):
    """SAM as published: `state_dict()` has the keys of `sam_vit_*.pth`."""

    def __init__(self, shape: ViTShape, *, frame_size: int = 1024) -> None:
        super().__init__()
        self.image_encoder = ViTEncoder(shape, frame_size=frame_size)
        self.prompt_encoder = PromptEncoder(frame_size=frame_size)
        self.mask_decoder = MaskDecoder()


class ViTEncoder(nn.Module):
    """Frames (B, 3, S, S) to image embedding (B, 256, S/16, S/16); S is fixed by the trained position embedding."""

    def __init__(self, shape: ViTShape, *, frame_size: int = 1024) -> None:
        super().__init__()
        side = frame_size // PATCH
        self.patch_embed = PatchEmbedding(shape.channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, shape.channels))
        self.blocks = nn.ModuleList(
            [
                ViTBlock(shape.channels, shape.heads, side if index in shape.global_blocks else min(WINDOW, side),
                         is_windowed=index not in shape.global_blocks)
                for index in range(shape.depth)
            ]
        )  # fmt: skip
        self.neck = nn.Sequential(
            nn.Conv2d(shape.channels, EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.pos_embed  # (B, H, W, C)
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return embedding


class PatchEmbedding(nn.Module):
    """(B, 3, S, S) -> (B, S/16, S/16, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.proj(image)
        return patches.permute(0, 2, 3, 1)


class ViTBlock(nn.Module):
    """Pre-norm transformer block, its attention inside windows or over the whole grid."""

    def __init__(self, channels: int, heads: int, side: int, *, is_windowed: bool) -> None:
        super().__init__()
        self.window = side if is_windowed else 0
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.attn = RelativeAttention(channels, heads, side)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.mlp = ViTMLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y = self.norm1(x)
        if self.window:
            height, width = y.shape[1:3]
            y = _unwindowed(self.attn(_windows(y, self.window)), self.window, height, width)
        else:
            y = self.attn(y)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class RelativeAttention(nn.Module):
    """Attention with a trained relative position along each axis, which is multiplied with the unscaled query."""

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), where H = W is the side given."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, h, H*W, d)
        by_position = q.reshape(batch, self.heads, height, width, -1)
        along_h = torch.einsum("bnhwd,hkd->bnhwk", by_position, _distances(self.rel_pos_h, height))
        along_w = torch.einsum("bnhwd,wkd->bnhwk", by_position, _distances(self.rel_pos_w, width))
        bias = along_h[..., :, None] + along_w[..., None, :]  # (B, h, H, W, H, W)
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.reshape(batch, self.heads, height * width, height * width)
        )
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))
        return out


class ViTMLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, 4 * channels)
        self.lin2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lin2(functional.gelu(self.lin1(x)))
        return y


def load_teacher(path: Path) -> SAM | PromptableModel:
    """Return the teacher of a checkpoint, frozen, in eval mode on the CPU.

    Args:
        path: Checkpoint: `sam_vit_b.pth`, `…_l.pth`, `…_h.pth`, or an EdgeSAM checkpoint.

    Raises:
        OSError: The file cannot be read.
        TeacherError: The file is neither, or its keys or shapes do not fit.
    """
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # broken bytes raise errors of many types
            raise TeacherError(f"{path} is not a readable PyTorch checkpoint") from error
    positions = state.get("image_encoder.pos_embed") if isinstance(state, Mapping) else None
    if positions is None:
        try:
            return load_checkpoint(path).requires_grad_(False)
        except CheckpointError as error:
            raise TeacherError(str(error)) from error
    return sam_from_state_dict(state)


def sam_from_state_dict(state: Mapping[str, Any]) -> SAM:
    """Return the SAM of a state dict, frozen, in eval mode; its channels determine the variant.

    Raises:
        TeacherError: The width is unknown, or keys do not fit.
    """
    channels, side = state["image_encoder.pos_embed"].shape[-1], state["image_encoder.pos_embed"].shape[1]
    shape = next((shape for shape in SHAPES.values() if shape.channels == channels), None)
    if shape is None:
        raise TeacherError(f"no SAM encoder has {channels} channels")
    with torch.device("meta"):
        model = SAM(shape, frame_size=side * PATCH)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise TeacherError("not a SAM checkpoint: " + " ".join(str(error).split())[:500]) from error
    return model.float().eval().requires_grad_(False)


def _distances(table: Tensor, side: int) -> Tensor:
    """Return (side, side, d), with the entry for query position i and key position j at [i, j]."""
    positions = torch.arange(side, device=table.device)
    return table[positions[:, None] - positions[None, :] + side - 1]


def _windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, w, w, C), zeros where the grid ends."""
    batch, height, width, channels = x.shape
    down, right = -height % window, -width % window
    x = functional.pad(x, (0, 0, 0, right, 0, down))
    rows, columns = (height + down) // window, (width + right) // window
    x = x.reshape(batch, rows, window, columns, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window, window, channels)


def _unwindowed(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Invert `_windows`, and remove its padding."""
    rows, columns = -(-height // window), -(-width // window)
    x = x.reshape(-1, rows, columns, window, window, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), rows * window, columns * window, -1)[:, :height, :width]
