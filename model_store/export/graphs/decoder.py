"""The decoder graph: SAM's mask decoder, with its steps in the order in which a prompt is cheapest.

Nothing is approximated. Products that depend on the image alone are in the prepare graph, projections of the 4096
image tokens are absorbed into the few prompt tokens, and everything stays channels last.

Inputs, outputs and algebra: docs/explanation/model.md, sections 5.1 and 5.2.

Letters: P prompts, N points of a prompt, T decoder tokens (the model's own and N), S image states (1 or P).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.export.graphs.attention import AbsorbedImageToToken, AbsorbedTokenToImage, masked_self_attention
from model_store.export.graphs.positions import GRID, IMAGE_TOKENS, DensePosition, position_code
from model_store.network.decoder_algebra import arrange_cells, kernel_as_matrix
from model_store.network.layer_norm import EPSILON, LayerNorm2d
from model_store.network.mask_decoder import CHANNELS, MASKS, MaskDecoder
from model_store.network.model import PromptableModel
from model_store.network.prompt_encoder import PromptEncoder
from model_store.network.transformer import TwoWayLayer
from service.sam.prompts import ABSENT, BOX_BOTTOM_RIGHT, NEGATIVE

# Added to the score of an absent token: exp() of it is 0 in float32, and it stays finite.
ABSENT_SCORE = -1e9


class DecoderGraph(nn.Module):
    """Image state and points → mask_logits (P, 4, 256, 256), iou_predictions (P, 4), stability (P, 4).

    Inputs: points (P, N, 2) in frame pixels before +0.5; labels (P, N) int64, the table of `service.sam.prompts`
    (ABSENT tokens take no part, so prompts of different length share a call); the image state of `PrepareGraph`,
    one for all prompts (S = 1) or one each (S = P). docs/explanation/model.md, sections 3.1 to 3.4.

    Attributes:
        iou_index: Index of the IoU token; those of the masks follow it.
    """

    iou_index = 0

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        decoder: MaskDecoder = model.mask_decoder
        # The whole parts come first: so the weights have SAM's names in the graph.
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = decoder
        self.prompt_tokens = PromptTokens(model.prompt_encoder)
        self.position = DensePosition(model.prompt_encoder)
        transformer = decoder.transformer
        self.first = DecoderLayer(_layer(transformer.layers[0]))
        self.second = DecoderLayer(_layer(transformer.layers[1]))
        self.final_attention = AbsorbedTokenToImage(transformer.final_attn_token_to_image)
        self.final_norm = transformer.norm_final_attn
        self.upscaling = Upscaling(decoder)
        self.hypernetworks = decoder.output_hypernetworks_mlps
        self.iou_head = decoder.iou_prediction_head

    def forward(
        self, points: Tensor, labels: Tensor, keys: Tensor, keys0: Tensor, queries0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, keys = self.transformed(points, labels, keys, keys0, queries0)
        mask_logits = self.upscaling(keys, self.mask_weights(tokens))  # (P, 4, 256, 256)
        return mask_logits, self.iou_head(tokens[:, self.iou_index]), stability(mask_logits)

    def own_tokens(self) -> list[Tensor]:
        """Return the weights of the model's own tokens: those before the IoU token, that one, the four of the masks."""
        return [self.mask_decoder.iou_token.weight, self.mask_decoder.mask_tokens.weight]

    def transformed(
        self, points: Tensor, labels: Tensor, keys: Tensor, keys0: Tensor, queries0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the decoder tokens (P, T, 256) and the image stream (P, 4096, 256) behind the transformer."""
        sparse = self.prompt_tokens(points, labels)  # (P, N, 256)
        own = torch.cat(self.own_tokens())  # (T - N, 256)
        own_count = self.iou_index + 1 + MASKS
        outputs = own[None].expand(points.shape[0], -1, -1)
        start = torch.cat([outputs, sparse], dim=1)  # (P, T, 256)
        absent = functional.pad((labels == ABSENT).to(start.dtype) * ABSENT_SCORE, (own_count, 0))  # (P, T)
        position = self.position()  # (4096, 256)

        tokens = self.first.self_attention(start, start, absent, is_first=True)
        tokens = self.first.tokens_from_prepared_image(tokens, start, keys, keys0)
        keys = self.first.prepared_image_from_tokens(keys, queries0, tokens, start, absent)

        tokens = self.second.self_attention(tokens, start, absent, is_first=False)
        tokens = self.second.tokens_from_image(tokens, start, keys, keys + position)
        keys = self.second.image_from_tokens(keys, keys + position, tokens, start, absent)

        return self.final_norm(tokens + self.final_attention(tokens + start, keys, keys + position)), keys

    def mask_weights(self, tokens: Tensor) -> Tensor:
        """Return the outputs of the hypernetworks, (P, 4, 32), for the decoder tokens (P, T, 256)."""
        first = self.iou_index + 1
        return torch.stack([mlp(tokens[:, first + i]) for i, mlp in enumerate(self.hypernetworks)], dim=1)


class PromptTokens(nn.Module):
    """points (P, N, 2) and labels (P, N) → sparse tokens (P, N, 256) by one table look-up, no branches.

    Source: docs/explanation/model.md, section 3.1.
    """

    zeros: Tensor

    def __init__(self, prompt_encoder: PromptEncoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        # ABSENT, which the attention masks out, and IGNORED, a zero token that takes part.
        self.register_buffer("zeros", torch.zeros(2, CHANNELS), persistent=False)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        prompt_encoder = self.prompt_encoder
        code = position_code((points + 0.5) / 1024.0, prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
        has_position = (labels >= 0).to(code.dtype)[..., None]
        types = torch.cat(
            [
                self.zeros,
                prompt_encoder.not_a_point_embed.weight,  # PADDING
                *[prompt_encoder.type_embedding(label) for label in range(NEGATIVE, BOX_BOTTOM_RIGHT + 1)],
            ]
        )  # (7, 256)
        return code * has_position + types[labels - ABSENT]


class DecoderLayer(nn.Module):
    """One two-way layer (docs/explanation/model.md 3.2), split at the points where the image side can be prepared."""

    def __init__(self, layer: TwoWayLayer) -> None:
        super().__init__()
        self.self_attn = layer.self_attn
        self.norm1, self.norm2, self.norm3, self.norm4 = layer.norm1, layer.norm2, layer.norm3, layer.norm4
        self.mlp = layer.mlp
        self.token_to_image = AbsorbedTokenToImage(layer.cross_attn_token_to_image)
        self.image_to_token = AbsorbedImageToToken(layer.cross_attn_image_to_token)

    def self_attention(self, tokens: Tensor, start: Tensor, absent: Tensor, *, is_first: bool) -> Tensor:
        """The first layer adds neither the position nor a residual."""
        if is_first:
            return _tensor(self.norm1(masked_self_attention(self.self_attn, tokens, tokens, absent)))
        coded = tokens + start
        return _tensor(self.norm1(tokens + masked_self_attention(self.self_attn, coded, tokens, absent)))

    def tokens_from_prepared_image(self, tokens: Tensor, start: Tensor, keys: Tensor, keys0: Tensor) -> Tensor:
        attended = self.token_to_image.projected(tokens + start, keys, keys0)
        return self._mlp(self.norm2(tokens + attended))

    def tokens_from_image(self, tokens: Tensor, start: Tensor, keys: Tensor, coded: Tensor) -> Tensor:
        return self._mlp(self.norm2(tokens + self.token_to_image(tokens + start, keys, coded)))

    def prepared_image_from_tokens(
        self, keys: Tensor, queries0: Tensor, tokens: Tensor, start: Tensor, absent: Tensor
    ) -> Tensor:
        return _tensor(self.norm4(keys + self.image_to_token.projected(queries0, tokens + start, tokens, absent)))

    def image_from_tokens(self, keys: Tensor, coded: Tensor, tokens: Tensor, start: Tensor, absent: Tensor) -> Tensor:
        return _tensor(self.norm4(keys + self.image_to_token(coded, tokens + start, tokens, absent)))

    def _mlp(self, tokens: Tensor) -> Tensor:
        return _tensor(self.norm3(tokens + self.mlp(tokens)))


class Upscaling(nn.Module):
    """Image stream (P, 4096, 256) and hypernetwork outputs (P, 4, 32) → mask logits (P, 4, 256, 256).

    The two stride-2 transposed convolutions are matrix products; only the four mask planes are rearranged.

    Source: docs/explanation/model.md, section 3.3.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        first, norm, _, second, _ = decoder.output_upscaling
        assert isinstance(first, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        assert isinstance(second, nn.ConvTranspose2d)
        self.first, self.norm, self.second = first, norm, second

    def forward(self, keys: Tensor, hyper: Tensor) -> Tensor:
        prompts = hyper.shape[0]
        assert self.first.bias is not None
        assert self.second.bias is not None
        first = kernel_as_matrix(self.first.weight)  # (256, 4·64), columns (ky, kx, channel)
        second = kernel_as_matrix(self.second.weight)  # (64, 4·32)
        coarse = (keys @ first).reshape(prompts, IMAGE_TOKENS * 4, 64) + self.first.bias
        coarse = functional.layer_norm(coarse, (64,), self.norm.weight, self.norm.bias, eps=EPSILON)
        fine = (functional.gelu(coarse) @ second).reshape(prompts, IMAGE_TOKENS * 16, 32) + self.second.bias
        planes = functional.gelu(fine) @ hyper.transpose(1, 2)  # (P, 65536, 4)
        return arrange_cells(planes, GRID)


def _layer(module: nn.Module) -> TwoWayLayer:
    assert isinstance(module, TwoWayLayer)
    return module


def _tensor(result: object) -> Tensor:
    """Narrow the result of calling a module, which torch types as Any."""
    assert isinstance(result, Tensor)
    return result


def stability(mask_logits: Tensor) -> Tensor:
    """Pixels above +1 over pixels above −1, per mask; 0 where there are none (docs/explanation/model.md 3.4)."""
    inner = (mask_logits > 1.0).to(mask_logits.dtype).sum(dim=(2, 3))
    outer = (mask_logits > -1.0).to(mask_logits.dtype).sum(dim=(2, 3))
    return inner / outer.clamp(min=1.0)
