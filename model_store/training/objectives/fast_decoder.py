"""SAM's mask decoder in an order that is cheap to train: equals `MaskDecoder`, about twice as fast on CPUs.

- Layer 0's image side is computed once for each image, not once for each prompt.
- Projections of the image tokens are absorbed into the few prompt tokens.
- Transposed convolutions are matrix products on channels-last tokens.
- Biases and residuals are added within products: a pass over the image tokens costs as much as a small product.

Letters: B images, n prompts of an image, P = B·n, T tokens of a prompt, H = 8 heads, M = g·g image tokens, C = 256.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.decoder_algebra import (
    CHANNELS as HEAD_CHANNELS,
)
from model_store.network.decoder_algebra import (
    arrange_cells,
    collapse_heads,
    head_owners,
    kernel_as_matrix,
    spread_heads,
)
from model_store.network.layer_norm import EPSILON
from model_store.network.mask_decoder import CHANNELS, MaskDecoder
from model_store.network.transformer import HEADS, Attention, TwoWayLayer

_SCALE = 1 / math.sqrt(HEAD_CHANNELS // HEADS)


def decode_tokens(
    decoder: MaskDecoder,
    image: Tensor,
    code: Tensor,
    sparse: Tensor,
    prompts: int,
    *,
    no_mask: Tensor | None = None,
    dense: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode n prompts of each of B images.

    Args:
        decoder: Mask decoder; gradients flow into it and into all tensors that require them.
        image: Image tokens, (B, M, 256).
        code: Positional code of the image tokens, (B or 1, M, 256).
        sparse: Prompt tokens, image by image, (B·n, T, 256).
        prompts: Number of prompts of each image, n.
        no_mask: Embedding that replaces a mask prompt at each image token, (1, 256); for prompts without masks.
        dense: Mask prompts as tokens, (B·n, M, 256).

    Returns:
        Mask logits (B·n, 4, 4g, 4g) and predicted IoU (B·n, 4), in float32 even where autocast computes in less.

    Raises:
        ValueError: Not exactly one of ``no_mask`` and ``dense`` is given, the number of prompts does not fit, or the
            image tokens are no square.
    """
    images, count, _ = image.shape
    grid = math.isqrt(count)
    if sparse.shape[0] != images * prompts:
        raise ValueError(f"{images} images with {prompts} prompts each need {images * prompts} rows of sparse tokens.")
    if grid * grid != count:
        raise ValueError(f"Image tokens lie in a square, which {count} do not fill.")
    owners = head_owners(image.device)
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (5, C)
    start = torch.cat([outputs.expand(len(sparse), -1, -1), sparse], dim=1)  # (P, T, C)
    keys = _image_stream(image, no_mask, dense)
    coded = _with_code(keys, code)
    tokens = start
    for module in decoder.transformer.layers:
        assert isinstance(module, TwoWayLayer)
        tokens, keys = _layer(module, tokens, start, keys, coded, owners)
        coded = _with_code(keys, code)
    transformer = decoder.transformer
    attended = _token_to_image(transformer.final_attn_token_to_image, tokens + start, keys, coded, owners)
    tokens = transformer.norm_final_attn(tokens + attended)
    hyper = torch.stack(
        [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )  # (P, 4, 32)
    logits = arrange_cells(_upscaled(decoder, keys) @ hyper.transpose(1, 2), grid)  # (P, 4, 4g, 4g)
    return _at_least_float32(logits), _at_least_float32(decoder.iou_prediction_head(tokens[:, 0]))


def _image_stream(image: Tensor, no_mask: Tensor | None, dense: Tensor | None) -> Tensor:
    """Return the input of the first layer, (S, M, C): S = B where the prompts of an image share it, else P."""
    if dense is not None and no_mask is None:
        return (image[:, None] + dense.reshape(len(image), -1, *image.shape[1:])).flatten(0, 1)
    if no_mask is not None and dense is None:
        return image + no_mask
    raise ValueError("Give no_mask or dense, one of them.")


def _layer(
    layer: TwoWayLayer, tokens: Tensor, start: Tensor, keys: Tensor, coded: Tensor, owners: Tensor
) -> tuple[Tensor, Tensor]:
    """One two-way layer: tokens (P, T, C) and image stream (S, M, C) → (P, T, C) and (P, M, C)."""
    if layer.is_first:
        tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
    else:
        tokens_coded = tokens + start
        tokens = layer.norm1(tokens + layer.self_attn(tokens_coded, tokens_coded, tokens))
    attended = _token_to_image(layer.cross_attn_token_to_image, tokens + start, keys, coded, owners)
    tokens = layer.norm2(tokens + attended)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    written = _image_to_token(layer.cross_attn_image_to_token, keys, coded, tokens + start, tokens, owners)
    return tokens, layer.norm4(written)


def _token_to_image(attention: Attention, queries: Tensor, keys: Tensor, coded: Tensor, owners: Tensor) -> Tensor:
    """Let the tokens attend to the image.

    Args:
        attention: Attention from tokens to image.
        queries: Queries, (P, T, C).
        keys: Image stream, which gives the values, (S, M, C).
        coded: Image stream with its positional code, (S, M, C).
        owners: Channels of each head, from `head_owners`.

    Returns:
        (P, T, C).
    """
    prompts, states = queries.shape[0], keys.shape[0]
    rows = spread_heads(attention.q_proj(queries), owners * _SCALE) @ attention.k_proj.weight  # (P, HT, C)
    # Prompts that share an image are more rows of one product. The key bias adds the same to all scores of a row.
    weights = torch.softmax(rows.reshape(states, -1, CHANNELS) @ coded.transpose(1, 2), dim=2)  # (S, nHT, M)
    values = (weights @ keys).reshape(prompts, -1, CHANNELS) @ attention.v_proj.weight.t()  # (P, HT, 128)
    # The weights of a row sum to 1, so the value bias can be added afterwards.
    attended: Tensor = attention.out_proj(collapse_heads(values, owners) + attention.v_proj.bias)
    return attended


def _image_to_token(
    attention: Attention, keys: Tensor, coded: Tensor, token_keys: Tensor, token_values: Tensor, owners: Tensor
) -> Tensor:
    """Let the image attend to the tokens, and add the residual.

    Args:
        attention: Attention from image to tokens.
        keys: Image stream, (S, M, C).
        coded: Image stream with its positional code, (S, M, C).
        token_keys: Tokens that give the keys, (P, T, C).
        token_values: Tokens that give the values, (P, T, C).
        owners: Channels of each head, from `head_owners`.

    Returns:
        (P, M, C).
    """
    states, count, _ = coded.shape
    prompts, tokens, _ = token_keys.shape
    projected = spread_heads(attention.k_proj(token_keys), owners * _SCALE)  # (P, HT, 128)
    rows = (projected @ attention.q_proj.weight).reshape(states, -1, CHANNELS)  # (S, nHT, C)
    bias = (projected @ attention.q_proj.bias).reshape(states, -1, 1)  # (S, nHT, 1)
    # Image tokens last, so that softmax goes over rows of M neighbours instead of over M rows of T.
    scores = torch.baddbmm(bias, rows, coded.transpose(1, 2))  # (S, nHT, M)
    weights = torch.softmax(scores.reshape(prompts * HEADS, tokens, count), dim=1).reshape(prompts, -1, count)
    written = spread_heads(attention.v_proj(token_values), owners) @ attention.out_proj.weight.t()  # (P, HT, C)
    # Each head's weights sum to 1, so an eighth of the bias on every row gives the whole.
    written = written + attention.out_proj.bias / HEADS
    residual = keys if states == prompts else keys.repeat_interleave(prompts // states, dim=0)
    return torch.baddbmm(residual, weights.transpose(1, 2), written)  # (P, M, C)


def _with_code(keys: Tensor, code: Tensor) -> Tensor:
    """Image stream (S, M, C) with the positional code (1 or B, M, C) of its images."""
    if code.shape[0] in {1, keys.shape[0]}:
        return keys + code
    by_image = keys.reshape(code.shape[0], -1, *code.shape[1:])  # (B, n, M, C)
    return (by_image + code[:, None]).flatten(0, 1)


def _upscaled(decoder: MaskDecoder, keys: Tensor) -> Tensor:
    """Image stream (P, M, C) → (P, 16·M, 32), in the order of `arrange_cells`."""
    first, norm, _, second, _ = decoder.output_upscaling
    assert isinstance(first, nn.ConvTranspose2d)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(second, nn.ConvTranspose2d)
    coarse = _transposed_convolution(first, keys)  # (P, 4M, 64)
    coarse = functional.gelu(functional.layer_norm(coarse, (CHANNELS // 4,), norm.weight, norm.bias, EPSILON))
    return functional.gelu(_transposed_convolution(second, coarse))


def _transposed_convolution(convolution: nn.ConvTranspose2d, cells: Tensor) -> Tensor:
    """(P, N, in) → (P, 4·N, out)."""
    assert convolution.bias is not None
    made = functional.linear(cells, kernel_as_matrix(convolution.weight).t(), convolution.bias.repeat(4))
    return made.reshape(cells.shape[0], -1, convolution.out_channels)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
