"""The prepare graph: computes the inputs of the decoder that depend only on image and mask prompt.

Inputs and outputs: docs/explanation/model.md, section 5.1.

Letters: S image states.
"""

import torch
from torch import Tensor, nn

from model_store.export.graphs.positions import DensePosition
from model_store.network.mask_decoder import MaskDecoder
from model_store.network.model import PromptableModel
from model_store.network.prompt_encoder import PromptEncoder
from model_store.network.transformer import HEADS, TwoWayLayer


class PrepareGraph(nn.Module):
    """tokens and low-resolution mask prompts → image state, once an image (and once a mask prompt).

    Inputs: tokens (4096, 256); mask_logits (S, 256, 256); has_mask (S,) bool, false where mask_logits is to be
    ignored. Outputs: keys (S, 4096, 256), the image stream that enters the transformer, and layer 0's projections of
    it: keys0 and queries0 (S, 4096, 128), channels before heads (see `by_channel`). docs/explanation/model.md 3.1, 3.2.

    The layer's values are not prepared. A prompt would save less time than an image with a single prompt would lose,
    and each image in memory would take 2 MiB more.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        # The whole parts come first: so the weights have SAM's names in the graph.
        self.prompt_encoder: PromptEncoder = model.prompt_encoder
        self.mask_decoder: MaskDecoder = model.mask_decoder
        self.position = DensePosition(model.prompt_encoder)

    def forward(self, tokens: Tensor, mask_logits: Tensor, has_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.mask_decoder.transformer.layers[0]
        assert isinstance(layer, TwoWayLayer)
        key, query = layer.cross_attn_token_to_image.k_proj, layer.cross_attn_image_to_token.q_proj
        dense = (
            self.prompt_encoder.mask_downscaling(mask_logits.unsqueeze(1)).flatten(2).transpose(1, 2)
        )  # (S, 4096, 256)
        dense = torch.where(has_mask[:, None, None], dense, self.prompt_encoder.no_mask_embed.weight[None])
        keys = tokens[None] + dense  # (S, 4096, 256)
        coded = keys + self.position()
        # The key bias adds the same to every score of a row and drops out of the softmax.
        keys0 = coded @ by_channel(key.weight).t()  # (S, 4096, 128)
        queries0 = coded @ by_channel(query.weight).t() + by_channel(query.bias)  # (S, 4096, 128)
        return keys, keys0, queries0


def by_channel(weight: Tensor) -> Tensor:
    """Reorder the rows of a projection from (head, channel) to (channel, head), as a part of the graph.

    So a vector of eight neighbours holds one channel of all heads, which is what service/native multiplies with.
    """
    rows = weight.shape[0] // HEADS
    return weight.reshape(HEADS, rows, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)
