"""The image encoders of SAM 2.1: Hiera-T, Hiera-S, Hiera-B+ and Hiera-L in front of SAM 2's neck.

Letters: B images, S side of the image in pixels, G = S/4 side of the first stage's grid, C channels of a stage.

Source: docs/explanation/sam2.md, section "Encoders".
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from model_store.hiera_shape import PATCH, HieraShape
from model_store.network.encoders.hiera.blocks import HieraBlock
from model_store.network.encoders.hiera.order import stage_orders
from model_store.network.encoders.image_encoder import UnsupportedByEncoderError
from model_store.network.encoders.sam2_neck import SAM2Encoder
from model_store.network.resampling import enlarge

IMAGE_SIDE = 1024
"""Side of the encoder's input, in pixels."""


class HieraEncoder(SAM2Encoder):
    """Frames (B, 3, S, S) to the three maps of an image. The encoder fixes S.

    Args:
        shape: Size of the network.
        frame_size: Side S of the frame, in pixels; a multiple of 32. All published files have 1024.
    """

    frame_multiple = IMAGE_SIDE

    def __init__(self, shape: HieraShape, *, frame_size: int = IMAGE_SIDE) -> None:
        super().__init__(HieraTrunk(shape, frame_size=frame_size), shape.stage_channels)
        self.name = shape.name


class HieraTrunk(nn.Module):
    """Images (B, 3, S, S) to the ends of the four stages, of strides 4, 8, 16 and 32.

    Args:
        shape: Size of the network.
        frame_size: Side S of the frame, in pixels.
    """

    def __init__(self, shape: HieraShape, *, frame_size: int = IMAGE_SIDE) -> None:
        super().__init__()
        self.name, self.frame_size = shape.name, frame_size
        self.orders = stage_orders(shape, frame_size // PATCH)
        self.ends = [last - 1 for last in accumulate(shape.blocks)]
        side, window = shape.position_side, shape.windows[0]
        self.patch_embed = PatchEmbedding(shape.channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.channels, side, side))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, shape.channels, window, window))
        self.blocks = nn.ModuleList(
            [HieraBlock(block, self.orders[block.stage - block.pools]) for block in shape.layout()]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> (B, C, G, G), (B, 2C, G/2, G/2), (B, 4C, G/4, G/4), (B, 8C, G/8, G/8).

        Raises:
            UnsupportedByEncoderError: The image has another side.
        """
        side = self.frame_size
        if image.shape[-2:] != (side, side):
            size = " x ".join(str(int(found)) for found in image.shape[-2:])
            raise UnsupportedByEncoderError(f"{self.name} takes images of {side} x {side} pixels, not {size}.")
        tokens = self.orders[0].tokens_of_map(self.patch_embed(image) + self.position())  # (B*G*G, C)
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self.ends:
                maps.append(self.orders[len(maps)].map_of_tokens(tokens))
        stride4, stride8, stride16, stride32 = maps
        return stride4, stride8, stride16, stride32

    def position(self) -> Tensor:
        """Return the embedding of the position in the image plus that in the window, (1, C, G, G)."""
        grid = self.orders[0].grid
        channels, window = (int(size) for size in self.pos_embed_window.shape[1:3])
        windows = grid // window
        in_image = enlarge(self.pos_embed, grid, grid, "bicubic")
        by_window = in_image.reshape(1, channels, windows, window, windows, window)
        in_window = self.pos_embed_window.reshape(1, channels, 1, window, 1, window)
        return (by_window + in_window).reshape(1, channels, grid, grid)


class PatchEmbedding(nn.Module):
    """(B, 3, S, S) -> (B, C, G, G), from overlapping squares of 7x7 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 7, PATCH, 3)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.proj(image)
        return patches
