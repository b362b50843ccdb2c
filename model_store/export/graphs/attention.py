"""Attention of the decoder graph: projections of the 4096 image tokens are absorbed into the few prompt tokens.

Source: docs/explanation/model.md, section 5.2.

Letters: P prompts, T = 5 + N decoder tokens, S image states (1 or P), H = 8 heads, 128 channels in cross attention.
"""

import math

import torch
from torch import Tensor, nn

from model_store.export.graphs.positions import IMAGE_TOKENS
from model_store.network.decoder_algebra import CHANNELS, collapse_heads, head_owners, spread_heads
from model_store.network.transformer import HEADS, Attention

_SELF_CHANNELS = 32  # channels of a head in self attention


class AbsorbedTokenToImage(nn.Module):
    """Attention from few tokens to 4096: the key and value projections act on the few tokens."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.out = attention.out_proj
        self.heads = HeadSpread()

    def forward(self, queries: Tensor, keys: Tensor, coded: Tensor) -> Tensor:
        """Attend to the image stream.

        Args:
            queries: Tokens that give the queries, (P, T, 256).
            keys: Image stream, (S, 4096, 256).
            coded: Image stream with its positional code, (S, 4096, 256).

        Returns:
            (P, T, 256).
        """
        absorbed = self.heads.spread(self.query(queries)) @ self.key.weight  # (P, HT, 256)
        return self._attend(absorbed @ coded.transpose(1, 2), keys)

    def projected(self, queries: Tensor, keys: Tensor, keys0: Tensor) -> Tensor:
        """Attend with prepared keys: like `forward`, with keys0 (S, 4096, 128) of the prepare graph."""
        scores = self.heads.spread_by_channel(self.query(queries)) @ keys0.transpose(1, 2)  # (P, HT, 4096)
        return self._attend(scores, keys)

    def _attend(self, scores: Tensor, keys: Tensor) -> Tensor:
        values = (torch.softmax(scores, dim=-1) @ keys) @ self.value.weight.t()  # (P, HT, 128)
        # The value bias is added to the few tokens instead, since the weights of a row sum to 1.
        attended: Tensor = self.out(self.heads.collapse(values) + self.value.bias)  # (P, T, 256)
        return attended


class AbsorbedImageToToken(nn.Module):
    """Attention from 4096 tokens to few: the query and output projections act on the few tokens."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.out = attention.out_proj
        self.heads = HeadSpread()

    def forward(self, coded: Tensor, token_keys: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        """Attend to the tokens.

        Args:
            coded: Image stream with its positional code, (S, 4096, 256).
            token_keys: Tokens that give the keys, (P, T, 256).
            token_values: Tokens that give the values, (P, T, 256).
            absent: Term that is added to the scores of each token, (P, T); very negative for absent tokens.

        Returns:
            (P, 4096, 256).
        """
        keys = self.heads.spread(self.key(token_keys))  # (P, HT, 128)
        bias = keys @ self.query.bias  # (P, HT): the query bias gives each column a constant
        scores = coded @ (keys @ self.query.weight).transpose(1, 2) + bias[:, None]  # (P, 4096, HT)
        return self._attend(scores, token_values, absent)

    def projected(self, queries0: Tensor, token_keys: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        """Attend with prepared queries: like `forward`, with queries0 (S, 4096, 128) of the prepare graph."""
        scores = queries0 @ self.heads.spread_by_channel(self.key(token_keys)).transpose(1, 2)  # (P, 4096, HT)
        return self._attend(scores, token_values, absent)

    def _attend(self, scores: Tensor, token_values: Tensor, absent: Tensor) -> Tensor:
        prompts, tokens = absent.shape
        by_head = scores.reshape(prompts, IMAGE_TOKENS, HEADS, tokens) + absent[:, None, None]
        weights = torch.softmax(by_head, dim=-1).reshape(prompts, IMAGE_TOKENS, HEADS * tokens)
        values = self.heads.spread(self.value(token_values), scaled=False) @ self.out.weight.t()  # (P, HT, 256)
        return weights @ values + self.out.bias


class HeadSpread(nn.Module):
    """`spread_heads` and `collapse_heads` with their table of heads as a part of the graph."""

    own: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("own", head_owners()[None])  # (1, H, 1, 128)
        self.scale = 1.0 / math.sqrt(CHANNELS // HEADS)

    def spread(self, tokens: Tensor, *, scaled: bool = True) -> Tensor:
        """(P, T, 128) → (P, HT, 128); `scaled` applies attention's 1/√D here, where it costs least."""
        return spread_heads(tokens, self.own * self.scale if scaled else self.own)

    def spread_by_channel(self, tokens: Tensor) -> Tensor:
        """Like `spread`, with columns in the order (channel, head) of the prepare graph's projections."""
        rows = self.spread(tokens)
        channels = rows.reshape(*rows.shape[:2], HEADS, -1).transpose(2, 3)  # (P, HT, 16, H)
        return channels.reshape(rows.shape)

    def collapse(self, rows: Tensor) -> Tensor:
        """(P, HT, 128) → (P, T, 128), each head's own channels."""
        return collapse_heads(rows, self.own)


def masked_self_attention(attention: Attention, coded: Tensor, values: Tensor, absent: Tensor) -> Tensor:
    """Self attention of the decoder tokens, 8 heads of 32 channels, without the absent tokens.

    Args:
        attention: Projections.
        coded: Queries and keys, (P, T, 256).
        values: Values, (P, T, 256).
        absent: Term that is added to the scores of each token, (P, T); very negative for absent tokens.

    Returns:
        (P, T, 256).
    """
    prompts, tokens = absent.shape

    def split(x: Tensor) -> Tensor:
        return x.reshape(prompts, tokens, HEADS, _SELF_CHANNELS).transpose(1, 2)  # (P, H, T, 32)

    query, key, value = (
        split(attention.q_proj(coded)),
        split(attention.k_proj(coded)),
        split(attention.v_proj(values)),
    )
    scores = (query * (1.0 / math.sqrt(_SELF_CHANNELS))) @ key.transpose(2, 3) + absent[:, None, None]  # (P, H, T, T)
    mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(prompts, tokens, 256)
    out: Tensor = attention.out_proj(mixed)
    return out
