"""The decoder graph of SAM 2: six own tokens, two high-resolution maps in the upscaling, scores behind a sigmoid.

Inputs, outputs and algebra: docs/explanation/sam2.md, sections "Decoder" and "Graphs".

Letters: P prompts, N points of a prompt, S image states (1 or P).
"""

import torch
from torch import Tensor
from torch.nn import functional

from model_store.export.graphs.decoder import DecoderGraph, Upscaling, stability
from model_store.export.graphs.positions import GRID, IMAGE_TOKENS
from model_store.network.decoder_algebra import arrange_cells, kernel_as_matrix
from model_store.network.layer_norm import EPSILON
from model_store.network.mask_decoder import MASKS, MaskDecoder
from model_store.network.model import PromptableModel
from model_store.network.sam2_mask_decoder import SAM2MaskDecoder
from service.sam.masks import NARROW_OFFSET

# Cells that the second transposed convolution makes of each coarse pixel, 2 x 2, and channels of a fine pixel.
_CELLS, _FINE = 4, 32


class SAM2DecoderGraph(DecoderGraph):
    """Image state, high-resolution maps and points → the outputs of `DecoderGraph`, and narrow_stability (P,).

    The predicted IoUs are in 0..1. Further inputs: high_res_s1 (1, 4096, 256) and high_res_s0 (1, 4096, 512), the maps
    of the one image that all prompts are for, in the order of `EncoderGraph`. The object score is left out, because
    prompts on images do not use it.
    """

    iou_index = 1

    def __init__(self, model: PromptableModel) -> None:
        super().__init__(model)
        self.upscaling = HighResUpscaling(self.mask_decoder)

    def forward(  # type: ignore[override] # two more inputs and one more output
        self,
        points: Tensor,
        labels: Tensor,
        keys: Tensor,
        keys0: Tensor,
        queries0: Tensor,
        high_res_s1: Tensor,
        high_res_s0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, keys = self.transformed(points, labels, keys, keys0, queries0)
        mask_logits = self.upscaling(keys, self.mask_weights(tokens), high_res_s1, high_res_s0)  # (P, 4, 256, 256)
        iou_predictions = torch.sigmoid(self.iou_head(tokens[:, self.iou_index]))
        return mask_logits, iou_predictions, stability(mask_logits), narrow_stability(mask_logits)

    def own_tokens(self) -> list[Tensor]:
        decoder = self.mask_decoder
        assert isinstance(decoder, SAM2MaskDecoder)
        return [decoder.obj_score_token.weight, *super().own_tokens()]


class HighResUpscaling(Upscaling):
    """`Upscaling` with s1 before the norm and s0 before the second GELU.

    The maps have the order in which the two transposed convolutions leave their cells, so both are added without any
    rearrangement. Masks of four cells are one product with a matrix that has the weights of each cell in its own rows.
    """

    own_cell: Tensor

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__(decoder)
        # (1, 1, 4, 4, 1): 1 where the cell of a row is that of the column
        self.register_buffer("own_cell", torch.eye(_CELLS)[None, None, :, :, None], persistent=False)

    def forward(  # type: ignore[override] # two more inputs
        self, keys: Tensor, hyper: Tensor, high_res_s1: Tensor, high_res_s0: Tensor
    ) -> Tensor:
        prompts = hyper.shape[0]
        assert self.first.bias is not None
        assert self.second.bias is not None
        first = kernel_as_matrix(self.first.weight)  # (256, 4·64), columns (ky, kx, channel)
        second = self.second.weight.reshape(64, _FINE * _CELLS)  # columns (channel, ky, kx)
        # The biases are added to the maps, which all prompts share.
        s1 = high_res_s1.reshape(1, IMAGE_TOKENS * 4, 64) + self.first.bias
        s0 = high_res_s0.reshape(1, IMAGE_TOKENS * 4, _FINE * _CELLS) + self.second.bias.repeat_interleave(_CELLS)
        coarse = (keys @ first).reshape(prompts, IMAGE_TOKENS * 4, 64) + s1
        coarse = functional.layer_norm(coarse, (64,), self.norm.weight, self.norm.bias, eps=EPSILON)
        fine = functional.gelu(functional.gelu(coarse) @ second + s0)  # (P, 16384, 32·4)
        weights = hyper.transpose(1, 2)[:, :, None, None] * self.own_cell  # (P, 32, 4, 4, 4): channel, cell, cell, mask
        planes = fine @ weights.reshape(prompts, _FINE * _CELLS, _CELLS * MASKS)  # (P, 16384, 4·4)
        return arrange_cells(planes.reshape(prompts, IMAGE_TOKENS * 16, MASKS), GRID)


def narrow_stability(mask_logits: Tensor) -> Tensor:
    """Return the stability of output 0 at ±0.05, (P,); an empty mask is stable, 1."""
    first = mask_logits[:, 0]  # (P, 256, 256)
    inner = (first > NARROW_OFFSET).to(first.dtype).sum(dim=(1, 2))
    outer = (first > -NARROW_OFFSET).to(first.dtype).sum(dim=(1, 2))
    return torch.where(outer > 0, inner / outer.clamp(min=1.0), torch.ones_like(outer))
