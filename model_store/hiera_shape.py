"""Sizes of SAM 2's Hiera encoders. Checkpoints do not state windows, heads and global blocks. Needs no torch.

Source: docs/explanation/sam2.md, section "Encoders".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PATCH = 4
"""Stride of the patch embedding, in pixels: side of a token of the first stage."""
STAGES = 4
"""Number of stages. Each has half the grid and twice the channels of the one before."""
EXPANSION = 4
"""Hidden channels of the MLPs, as a multiple of the channels."""


@dataclass(frozen=True, slots=True)
class HieraShape:
    """Size of a Hiera encoder.

    Args:
        name: Name of the encoder as its authors write it.
        channels: Number of channels of the first stage.
        heads: Number of attention heads of the first stage.
        blocks: Number of blocks of each stage.
        windows: Side of the attention windows of each stage, in tokens.
        global_blocks: Indices of the blocks that attend to the whole image.
        position_side: Side of the square position embedding, which is enlarged to the grid of the first stage.
    """

    name: str
    channels: int
    heads: int
    blocks: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    position_side: int

    @property
    def depth(self) -> int:
        """Number of blocks of all stages."""
        return sum(self.blocks)

    @property
    def stage_channels(self) -> tuple[int, int, int, int]:
        """Number of channels of each stage."""
        c = self.channels
        return c, 2 * c, 4 * c, 8 * c

    def layout(self) -> "Iterator[HieraBlockShape]":
        """Yield the sizes of all blocks, in order."""
        block = 0
        for stage, count in enumerate(self.blocks):
            for place in range(count):
                pools = stage > 0 and place == 0
                old = stage - 1 if pools else stage
                yield HieraBlockShape(
                    stage=stage,
                    in_channels=self.channels << old,
                    channels=self.channels << stage,
                    heads=self.heads << stage,
                    # A block that begins a stage cuts the grid of the stage before, with the window of that stage.
                    window=None if block in self.global_blocks else self.windows[old],
                    pools=pools,
                )
                block += 1


@dataclass(frozen=True, slots=True)
class HieraBlockShape:
    """Size of one block.

    Args:
        stage: Index of its stage, 0 to 3.
        in_channels: Number of channels of its input.
        channels: Number of channels of its output.
        heads: Number of attention heads.
        window: Side of its windows in tokens of its input; None for attention to the whole image.
        pools: Whether its output has half the grid of its input. Such a block begins a stage.
    """

    stage: int
    in_channels: int
    channels: int
    heads: int
    window: int | None
    pools: bool


HIERA_T = HieraShape("Hiera-T", 96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7)
HIERA_S = HieraShape("Hiera-S", 96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7)
HIERA_B_PLUS = HieraShape("Hiera-B+", 112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14)
HIERA_L = HieraShape("Hiera-L", 144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7)

HIERA_SHAPES: Mapping[str, HieraShape] = {
    "sam2.1-tiny": HIERA_T,
    "sam2.1-small": HIERA_S,
    "sam2.1-base-plus": HIERA_B_PLUS,
    "sam2.1-large": HIERA_L,
}
"""Sizes by the name of their architecture. Channels, depth and position side together tell them apart."""
