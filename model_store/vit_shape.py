"""Sizes of SAM's ViT encoders, and what their checkpoints say about the image side. Needs no torch.

Source: docs/explanation/sam-family.md, section "SAM's ViT encoder".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PATCH = 16
"""Side of a patch, in pixels: each becomes one token."""
WINDOW = 14
"""Side of an attention window, in tokens."""
IMAGE_SIDE = 1024
"""Side of the encoder's input, in pixels."""

_POSITIONS = "image_encoder.pos_embed"


@dataclass(frozen=True, slots=True)
class ViTShape:
    """Size of a ViT encoder.

    Args:
        name: Name of the encoder as its authors write it.
        channels: Number of channels.
        depth: Number of blocks.
        heads: Number of attention heads.
        global_blocks: Indices of the blocks that attend to the whole image.
    """

    name: str
    channels: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]

    def attention_side(self, block: int, grid: int) -> int:
        """Return the side of the square in which a block attends, in tokens.

        Args:
            block: Index of the block.
            grid: Side of the image, in tokens.
        """
        return grid if block in self.global_blocks else min(WINDOW, grid)


VIT_B = ViTShape("ViT-B", 768, 12, 12, (2, 5, 8, 11))
VIT_L = ViTShape("ViT-L", 1024, 24, 16, (5, 11, 17, 23))
VIT_H = ViTShape("ViT-H", 1280, 32, 16, (7, 15, 23, 31))


def image_side_problem(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return why a ViT checkpoint is not for frames of 1024 pixels, without a full stop; None if it is.

    Fine-tuned files for smaller images have the keys of SAM, but smaller tables of positions.

    Args:
        shapes: Shape of each array of the checkpoint, by its key.
    """
    positions = shapes.get(_POSITIONS, ())
    if len(positions) != len(("batch", "rows", "columns", "channels")):
        return None
    grid = IMAGE_SIDE // PATCH
    rows, columns, channels = positions[1:]
    supported = f"only {IMAGE_SIDE}x{IMAGE_SIDE} is supported"
    if (rows, columns) != (grid, grid):
        frames = f"frames of {PATCH * rows}x{PATCH * columns} pixels"
        return f"a SAM that was trained anew for {frames}, as medical ones are; {supported}"
    for key, entries in _relative_positions(channels, grid):
        found = shapes.get(key, (entries,))
        if tuple(found[:1]) != (entries,):
            table = f"its table {key} has the shape {list(found)}, not {entries} entries"
            return f"a SAM that was trained anew for frames of another size: {table}; {supported}"
    return None


def _relative_positions(channels: int, grid: int) -> Iterator[tuple[str, int]]:
    """Yield the key of each table of relative positions with its number of entries; nothing for an unknown width."""
    for shape in (VIT_B, VIT_L, VIT_H):
        if shape.channels == channels:
            for block in range(shape.depth):
                for axis in "hw":
                    key = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
                    yield key, 2 * shape.attention_side(block, grid) - 1
