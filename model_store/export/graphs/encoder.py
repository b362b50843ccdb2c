"""The encoder graphs: the image encoder alone, with the granularity module, and with SAM 2's high-resolution maps.

Inputs and outputs: docs/explanation/model.md, section 5.1.

Letters: B images, S side of the model's input in pixels, N anchors.
"""

from torch import Tensor, nn

from model_store.export.graphs.positions import GRID, IMAGE_TOKENS
from model_store.network.anchors import ANCHORS, anchor_positions, anchor_shapes, anchors_of, decode_boxes
from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from service.sam.transforms import FRAME_SIZE

PROPOSALS = 2048
"""Number of boxes that the graph returns. Overlapping boxes stay, so a clear object has dozens of them."""


class EncoderGraph(nn.Module):
    """image (B, 3, S, S), normalised and padded → tokens (B, 4096, 256)."""

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        return rows_of_embedding(self.image_encoder(image))  # (B, 4096, 256)


class EncoderWithBoxesGraph(nn.Module):
    """`EncoderGraph` with the granularity module: one pass for the tokens and the proposed boxes.

    Outputs: tokens (B, 4096, 256); boxes (B, PROPOSALS, 4) in the frame and scores (B, PROPOSALS), 0..1, best first.

    Source: docs/explanation/model.md, section 6.
    """

    def __init__(self, model: PromptableModel, module: GranularityModule) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.module = module
        self.positions = nn.Parameter(anchor_positions(FRAME_SIZE))
        self.shapes = nn.Parameter(anchor_shapes())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = self.image_encoder.stages(image)
        tokens = rows_of_embedding(self.image_encoder.fuse(*stages[1:]))  # (B, 4096, 256)
        logits, deltas = self.module(stages)  # (B, N), (B, N, 4)
        best, chosen = logits.topk(PROPOSALS)  # (B, PROPOSALS)
        # Computed from positions and shapes: a table of all anchors would have a sixth of the encoder's size.
        anchors = anchors_of(self.positions[chosen // ANCHORS], self.shapes[chosen % ANCHORS])
        boxes = decode_boxes(anchors, deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), FRAME_SIZE)
        return tokens, boxes, best.sigmoid()


class HighResEncoderGraph(nn.Module):
    """The encoder of a model whose decoder reads three maps.

    image (B, 3, S, S), normalised → tokens (B, 4096, 256), high_res_s1 (B, 4096, 256) and high_res_s0 (B, 4096, 512).
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.image_encoder.encode(image)
        tokens = rows_of_embedding(encoded.embedding)  # (B, 4096, 256)
        assert encoded.high_res is not None
        return tokens, *high_res_rows(encoded.high_res)


def rows_of_embedding(embedding: Tensor) -> Tensor:
    """Return the embedding (B, 256, 64, 64) by image token: (B, 4096, 256).

    Channels go last before the axes are joined: a layer norm before them ends with the reverse, and both disappear.
    """
    return embedding.permute(0, 2, 3, 1).flatten(1, 2)


def high_res_rows(maps: HighResTensors) -> tuple[Tensor, Tensor]:
    """Return the high-resolution maps by image token: s1 (B, 4096, 256) and s0 (B, 4096, 512)."""
    return rows_of_s1(maps.s1), rows_of_s0(maps.s0)


def rows_of_s1(s1: Tensor) -> Tensor:
    """Return s1 (B, 64, 128, 128) by image token: (B, 4096, 256), a row in the order (dy, dx, channel).

    The decoder's first transposed convolution leaves its cells in this order.
    """
    split = s1.reshape(-1, 64, GRID, 2, GRID, 2)  # (B, channel, y, dy, x, dx)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(-1, IMAGE_TOKENS, 256)


def rows_of_s0(s0: Tensor) -> Tensor:
    """Return s0 (B, 32, 256, 256) by image token: (B, 4096, 512), a row in the order (dy1, dx1, channel, dy2, dx2).

    (dy1, dx1) is the pixel of s1, (dy2, dx2) the place inside it.
    """
    split = s0.reshape(-1, 32, GRID, 2, 2, GRID, 2, 2)  # (B, channel, y, dy1, dy2, x, dx1, dx2)
    return split.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, IMAGE_TOKENS, 512)
