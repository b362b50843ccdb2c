"""The three graphs that are served: EdgeSAM's mathematics in the order that makes a click cheap.

Inputs, outputs and algebra: docs/explanation/model.md, sections 5.1 and 5.2.

Nothing is approximated. Per-picture products leave the click, projections of the 4096 image tokens are absorbed into
the few prompt tokens, and everything stays channels last.

Letters: B pictures, P prompts, N points of a prompt, T = 5 + N decoder tokens, S image states (1 or P),
H = 8 heads, D = 16 channels of a head in cross attention, C = 256.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every torch code base uses

from model_store.network.decoder_algebra import (
    CHANNELS,
    arrange_cells,
    collapse_heads,
    head_owners,
    kernel_as_matrix,
    spread_heads,
)
from model_store.network.granularity_module import (
    ANCHORS,
    GranularityModule,
    anchor_places,
    anchor_shapes,
    anchors_of,
    decode_boxes,
)
from model_store.network.mask_decoder import MaskDecoder
from model_store.network.model import PromptableModel
from model_store.network.prompt_encoder import PromptEncoder
from model_store.network.transformer import HEADS, Attention, TwoWayLayer
from service.sam.prompts import ABSENT
from service.sam.transforms import FRAME_SIZE

GRID = 64  # image tokens along a side
IMAGE_TOKENS = GRID * GRID
# Added to the score of an absent token: exp() of it is 0 in float32, and it stays finite.
ABSENT_SCORE = -1e9
# Nothing is suppressed, so a clear object takes dozens of them, and one that stands out little must still have its own.
PROPOSALS = 2048


class EncoderGraph(nn.Module):
    """image (B, 3, 1024, 1024), normalised and padded → tokens (B, 4096, 256)."""

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.image_encoder(image).flatten(2).transpose(1, 2)  # (B, 4096, 256)
        return tokens


class ProposingEncoderGraph(nn.Module):
    """`EncoderGraph` with the granularity module: one pass for the tokens and the proposals.

    Source: docs/explanation/model.md, section 6.

    Outputs: tokens (B, 4096, 256); boxes (B, PROPOSALS, 4) in the frame and scores (B, PROPOSALS), 0..1, best first.
    """

    def __init__(self, model: PromptableModel, module: GranularityModule) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.module = module
        self.places = nn.Parameter(anchor_places(FRAME_SIZE))
        self.shapes = nn.Parameter(anchor_shapes())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = self.image_encoder.stages(image)
        tokens = self.image_encoder.fuse(*stages[1:]).flatten(2).transpose(1, 2)  # (B, 4096, 256)
        logits, deltas = self.module(stages)  # (B, N), (B, N, 4)
        best, chosen = logits.topk(PROPOSALS)  # (B, PROPOSALS)
        # From places and shapes and not from a table of all anchors, which would be as large as a sixth of the encoder.
        anchors = anchors_of(self.places[chosen // ANCHORS], self.shapes[chosen % ANCHORS])
        boxes = decode_boxes(anchors, deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), FRAME_SIZE)
        return tokens, boxes, best.sigmoid()


class PrepareGraph(nn.Module):
    """tokens and low-resolution mask prompts → image state, once a picture (and once a mask prompt).

    Inputs: tokens (4096, 256); mask_logits (S, 256, 256); has_mask (S,) bool, false where mask_logits is to be
    ignored. Outputs: keys (S, 4096, 256), the image stream that enters the transformer, and layer 0's projections of
    it: keys0 and queries0 (S, 4096, 128), channels before heads (see `by_channel`). docs/explanation/model.md 3.1, 3.2.

    The layer's values are not prepared: the click would save less than a picture with one click would lose, and each
    picture in memory would take 2 MiB more.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        prompt_encoder: PromptEncoder = model.prompt_encoder
        layer = _layer(model.mask_decoder.transformer.layers[0])
        self.mask_downscaling = prompt_encoder.mask_downscaling
        self.no_mask = nn.Parameter(prompt_encoder.no_mask_embed.weight.detach().clone())  # (1, 256)
        self.position = DensePosition(prompt_encoder)
        key, query = layer.cross_attn_token_to_image.k_proj, layer.cross_attn_image_to_token.q_proj
        self.key = nn.Parameter(by_channel(key.weight))  # (128, 256)
        self.query = nn.Parameter(by_channel(query.weight))  # (128, 256)
        self.query_bias = nn.Parameter(by_channel(query.bias))  # (128,)

    def forward(self, tokens: Tensor, mask_logits: Tensor, has_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dense = self.mask_downscaling(mask_logits.unsqueeze(1)).flatten(2).transpose(1, 2)  # (S, 4096, 256)
        dense = torch.where(has_mask[:, None, None], dense, self.no_mask[None])
        keys = tokens[None] + dense  # (S, 4096, 256)
        placed = keys + self.position()
        # The key bias adds the same to every score of a row and drops out of the softmax.
        keys0 = placed @ self.key.t()  # (S, 4096, 128)
        queries0 = placed @ self.query.t() + self.query_bias  # (S, 4096, 128)
        return keys, keys0, queries0


def by_channel(weight: Tensor) -> Tensor:
    """Rows (head, channel) of a projection → (channel, head).

    So a vector of eight neighbours holds one channel of all heads, which is what service/native multiplies with.
    """
    rows = weight.shape[0] // HEADS
    return weight.detach().reshape(HEADS, rows, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape).clone()


class DecoderGraph(nn.Module):
    """Image state and points → mask_logits (P, 4, 256, 256), iou_predictions (P, 4), stability (P, 4).

    Inputs: points (P, N, 2) in frame pixels before +0.5; labels (P, N) int64, the table of `service.sam.prompts`
    (ABSENT tokens take no part, so prompts of different length share a call); the image state of `PrepareGraph`,
    one for all prompts (S = 1) or one each (S = P). docs/explanation/model.md, sections 3.1 to 3.4.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        decoder: MaskDecoder = model.mask_decoder
        self.prompt_tokens = PromptTokens(model.prompt_encoder)
        self.position = DensePosition(model.prompt_encoder)
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach().clone()
        self.output_tokens = nn.Parameter(outputs)  # (5, 256)
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
        sparse = self.prompt_tokens(points, labels)  # (P, N, 256)
        outputs = self.output_tokens[None].expand(points.shape[0], -1, -1)
        start = torch.cat([outputs, sparse], dim=1)  # (P, T, 256)
        absent = F.pad((labels == ABSENT).to(start.dtype) * ABSENT_SCORE, (5, 0))  # (P, T)
        position = self.position()  # (4096, 256)

        tokens = self.first.self_attention(start, start, absent, is_first=True)
        tokens = self.first.read_image_projected(tokens, start, keys, keys0)
        keys = self.first.write_image_projected(keys, queries0, tokens, start, absent)

        tokens = self.second.self_attention(tokens, start, absent, is_first=False)
        tokens = self.second.read_image(tokens, start, keys, keys + position)
        keys = self.second.write_image(keys, keys + position, tokens, start, absent)

        tokens = self.final_norm(tokens + self.final_attention(tokens + start, keys, keys + position))
        hyper = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.hypernetworks)], dim=1)  # (P, 4, 32)
        mask_logits = self.upscaling(keys, hyper)  # (P, 4, 256, 256)
        return mask_logits, self.iou_head(tokens[:, 0]), _stability(mask_logits)


class PromptTokens(nn.Module):
    """points (P, N, 2) and labels (P, N) → sparse tokens (P, N, 256) by one table look-up, no branches.

    Source: docs/explanation/model.md, section 3.1.
    """

    def __init__(self, prompt_encoder: PromptEncoder) -> None:
        super().__init__()
        gaussian = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        self.gaussian = nn.Parameter(gaussian.detach().clone())  # (2, 128)
        nothing = torch.zeros_like(prompt_encoder.not_a_point_embed.weight)  # (1, 256)
        types = [
            nothing,  # ABSENT: whatever stands here is masked out
            nothing,  # IGNORED: a zero token that takes part
            prompt_encoder.not_a_point_embed.weight,  # PADDING
            *[
                _tensor(embedding.weight) for embedding in prompt_encoder.point_embeddings
            ],  # negative, positive, box corners
        ]
        self.types = nn.Parameter(torch.cat(types).detach().clone())  # (7, 256)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        code = position_code((points + 0.5) / 1024.0, self.gaussian)
        has_place = (labels >= 0).to(code.dtype)[..., None]
        return code * has_place + self.types[labels - ABSENT]


class DensePosition(nn.Module):
    """The positional code of the 64×64 grid, (4096, 256).

    Computed in the graph from (2, 128) numbers, so that no file carries 4 MB of it; ONNX Runtime folds it when the
    session is made.
    """

    centres: Tensor

    def __init__(self, prompt_encoder: PromptEncoder) -> None:
        super().__init__()
        gaussian = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        self.gaussian = nn.Parameter(gaussian.detach().clone())
        centres = (torch.arange(GRID, dtype=torch.float32) + 0.5) / GRID
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], dim=-1).reshape(IMAGE_TOKENS, 2))

    def forward(self) -> Tensor:
        return position_code(self.centres, self.gaussian)


def position_code(places: Tensor, gaussian: Tensor) -> Tensor:
    """places (…, 2) as (x, y) in [0, 1] → (…, 256), all sines before all cosines (docs/explanation/model.md 3.1)."""
    angles = ((2.0 * places - 1.0) @ gaussian) * (2.0 * math.pi)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


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
            return _tensor(self.norm1(_masked_attention(self.self_attn, tokens, tokens, absent)))
        placed = tokens + start
        return _tensor(self.norm1(tokens + _masked_attention(self.self_attn, placed, tokens, absent)))

    def read_image_projected(self, tokens: Tensor, start: Tensor, keys: Tensor, keys0: Tensor) -> Tensor:
        read = self.token_to_image.projected(tokens + start, keys, keys0)
        return self._mlp(self.norm2(tokens + read))

    def read_image(self, tokens: Tensor, start: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
        return self._mlp(self.norm2(tokens + self.token_to_image(tokens + start, keys, placed)))

    def write_image_projected(
        self, keys: Tensor, queries0: Tensor, tokens: Tensor, start: Tensor, absent: Tensor
    ) -> Tensor:
        return _tensor(self.norm4(keys + self.image_to_token.projected(queries0, tokens + start, tokens, absent)))

    def write_image(self, keys: Tensor, placed: Tensor, tokens: Tensor, start: Tensor, absent: Tensor) -> Tensor:
        return _tensor(self.norm4(keys + self.image_to_token(placed, tokens + start, tokens, absent)))

    def _mlp(self, tokens: Tensor) -> Tensor:
        return _tensor(self.norm3(tokens + self.mlp(tokens)))


class AbsorbedTokenToImage(nn.Module):
    """Few tokens attend to 4096: the key and value projections act on the token side.

    Source: docs/explanation/model.md, section 5.2.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.out = attention.out_proj
        self.heads = HeadSpread()

    def forward(self, queries: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
        """queries (P, T, 256), image stream keys and keys + position (S, 4096, 256) → (P, T, 256)."""
        absorbed = self.heads.spread(self.query(queries)) @ self.key.weight  # (P, HT, 256)
        return self._read(absorbed @ placed.transpose(1, 2), keys)

    def projected(self, queries: Tensor, keys: Tensor, keys0: Tensor) -> Tensor:
        """The same with scores from prepared keys0 (S, 4096, 128)."""
        scores = self.heads.spread_by_channel(self.query(queries)) @ keys0.transpose(1, 2)  # (P, HT, 4096)
        return self._read(scores, keys)

    def _read(self, scores: Tensor, keys: Tensor) -> Tensor:
        values = (torch.softmax(scores, dim=-1) @ keys) @ self.value.weight.t()  # (P, HT, 128)
        # The value bias is added to the few tokens instead, since the weights of a row sum to 1.
        joined: Tensor = self.out(self.heads.collapse(values) + self.value.bias)
        return joined


class AbsorbedImageToToken(nn.Module):
    """4096 tokens attend to few: query and output projections act on the token side."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.out = attention.out_proj
        self.heads = HeadSpread()

    def forward(self, placed: Tensor, token_keys: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        """placed (S, 4096, 256), token_keys and token_values (P, T, 256) → (P, 4096, 256)."""
        keys = self.heads.spread(self.key(token_keys))  # (P, HT, 128)
        bias = keys @ self.query.bias  # (P, HT): the query bias gives each column a constant
        scores = placed @ (keys @ self.query.weight).transpose(1, 2) + bias[:, None]  # (P, 4096, HT)
        return self._write(scores, token_values, absent)

    def projected(self, queries0: Tensor, token_keys: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        """The same from prepared queries0 (S, 4096, 128)."""
        scores = queries0 @ self.heads.spread_by_channel(self.key(token_keys)).transpose(1, 2)  # (P, 4096, HT)
        return self._write(scores, token_values, absent)

    def _write(self, scores: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        prompts, tokens = absent.shape
        by_head = scores.reshape(prompts, IMAGE_TOKENS, HEADS, tokens) + absent[:, None, None]
        weights = torch.softmax(by_head, dim=-1).reshape(prompts, IMAGE_TOKENS, HEADS * tokens)
        written = self.heads.spread(self.value(token_values), scaled=False) @ self.out.weight.t()  # (P, HT, 256)
        return weights @ written + self.out.bias


class HeadSpread(nn.Module):
    """`spread_heads` and `collapse_heads` with their table of heads as a part of the graph."""

    own: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("own", head_owners()[None])  # (1, H, 1, 128)
        self.scale = 1.0 / math.sqrt(CHANNELS // HEADS)

    def spread(self, tokens: Tensor, *, scaled: bool = True) -> Tensor:
        """(P, T, 128) → (P, HT, 128); `scaled` puts attention's 1/√D here, where it costs least."""
        return spread_heads(tokens, self.own * self.scale if scaled else self.own)

    def spread_by_channel(self, tokens: Tensor) -> Tensor:
        """The same for what `prepare` has projected: columns (channel, head)."""
        rows = self.spread(tokens)
        channels = rows.reshape(*rows.shape[:2], HEADS, -1).transpose(2, 3)  # (P, HT, 16, H)
        return channels.reshape(rows.shape)

    def collapse(self, rows: Tensor) -> Tensor:
        """(P, HT, 128) → (P, T, 128), each head's own channels."""
        return collapse_heads(rows, self.own)


class Upscaling(nn.Module):
    """Image stream (P, 4096, 256) and hypernetwork outputs (P, 4, 32) → mask logits (P, 4, 256, 256).

    Source: docs/explanation/model.md, section 3.3.

    The two stride-2 transposed convolutions are matrix products; only the four mask planes are shuffled into place.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        state = {name: nn.Parameter(value.clone()) for name, value in decoder.output_upscaling.state_dict().items()}
        self.first = nn.Parameter(_matrix(state["0.weight"]))  # (256, 4·64), columns (ky, kx, channel)
        self.first_bias = state["0.bias"]
        self.norm_weight, self.norm_bias = state["1.weight"], state["1.bias"]
        self.second = nn.Parameter(_matrix(state["3.weight"]))  # (64, 4·32)
        self.second_bias = state["3.bias"]

    def forward(self, keys: Tensor, hyper: Tensor) -> Tensor:
        prompts = hyper.shape[0]
        coarse = (keys @ self.first).reshape(prompts, IMAGE_TOKENS * 4, 64) + self.first_bias
        coarse = F.gelu(F.layer_norm(coarse, (64,), self.norm_weight, self.norm_bias, eps=1e-6))
        fine = (coarse @ self.second).reshape(prompts, IMAGE_TOKENS * 16, 32) + self.second_bias
        planes = F.gelu(fine) @ hyper.transpose(1, 2)  # (P, 65536, 4)
        return arrange_cells(planes, GRID)


def _layer(module: nn.Module) -> TwoWayLayer:
    assert isinstance(module, TwoWayLayer)
    return module


def _tensor(result: object) -> Tensor:
    """What calling a module gives; torch types it as Any."""
    assert isinstance(result, Tensor)
    return result


def _matrix(weight: Tensor) -> Tensor:
    """A copy for the graph."""
    return kernel_as_matrix(weight).detach().clone()


def _masked_attention(attention: Attention, placed: Tensor, values: Tensor, absent: Tensor) -> Tensor:
    """Self attention of the tokens (P, T, 256), 8 heads of 32, without the absent ones."""
    prompts, tokens = absent.shape

    def split(x: Tensor) -> Tensor:
        return x.reshape(prompts, tokens, HEADS, 32).transpose(1, 2)  # (P, H, T, 32)

    query, key, value = (
        split(attention.q_proj(placed)),
        split(attention.k_proj(placed)),
        split(attention.v_proj(values)),
    )
    scores = (query * (1.0 / math.sqrt(32))) @ key.transpose(2, 3) + absent[:, None, None]  # (P, H, T, T)
    mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(prompts, tokens, 256)
    out: Tensor = attention.out_proj(mixed)
    return out


def _stability(mask_logits: Tensor) -> Tensor:
    """Pixels above +1 over pixels above −1, per mask; 0 where there are none (docs/explanation/model.md 3.4)."""
    sure = (mask_logits > 1.0).to(mask_logits.dtype).sum(dim=(2, 3))
    likely = (mask_logits > -1.0).to(mask_logits.dtype).sum(dim=(2, 3))
    return sure / likely.clamp(min=1.0)
