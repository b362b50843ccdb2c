"""The encoder graph: the image encoder, with or without the granularity module.

Inputs and outputs: docs/explanation/model.md, section 5.1.

Letters: B images, S side of the model's input in pixels, N anchors.
"""

from torch import Tensor, nn

from model_store.network.anchors import ANCHORS, anchor_positions, anchor_shapes, anchors_of, decode_boxes
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
        tokens: Tensor = self.image_encoder(image).flatten(2).transpose(1, 2)  # (B, 4096, 256)
        return tokens


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
        tokens = self.image_encoder.fuse(*stages[1:]).flatten(2).transpose(1, 2)  # (B, 4096, 256)
        logits, deltas = self.module(stages)  # (B, N), (B, N, 4)
        best, chosen = logits.topk(PROPOSALS)  # (B, PROPOSALS)
        # Computed from positions and shapes: a table of all anchors would have a sixth of the encoder's size.
        anchors = anchors_of(self.positions[chosen // ANCHORS], self.shapes[chosen % ANCHORS])
        boxes = decode_boxes(anchors, deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), FRAME_SIZE)
        return tokens, boxes, best.sigmoid()
