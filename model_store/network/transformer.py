"""The two-way transformer between prompt tokens and image tokens (docs/explanation/model.md, section 3.2).

Letters: P prompts, T tokens a prompt, M image tokens (4096), C = 256 channels.
Source: SAM (arXiv 2304.02643), appendix "lightweight mask decoder"; attention: Vaswani et al. 2017.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = 8


class TwoWayTransformer(nn.Module):
    """Two layers that update tokens and image alternately, then a final attention of the tokens to the image.

    Args:
        channels: Number of channels, C.
        depth: Number of layers.
        mlp_channels: Inner channels of the MLPs.
        norm_epsilon: Epsilon of all layer norms.
    """

    def __init__(self, channels: int, *, depth: int = 2, mlp_channels: int = 2048, norm_epsilon: float = 1e-5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                TwoWayLayer(channels, mlp_channels, is_first=index == 0, norm_epsilon=norm_epsilon)
                for index in range(depth)
            ]
        )
        self.final_attn_token_to_image = Attention(channels, channels // 2)
        self.norm_final_attn = nn.LayerNorm(channels, eps=norm_epsilon)

    def forward(self, image: Tensor, image_code: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers.

        Args:
            image: Image tokens, (P, M, C).
            image_code: Positional code of the image tokens, (1 or P, M, C).
            tokens: Output tokens and prompt tokens, (P, T, C), which are also their own positional code.

        Returns:
            Tokens (P, T, C) and image tokens (P, M, C).
        """
        queries = tokens
        for layer in self.layers:
            queries, image = layer(queries, image, tokens, image_code)
        attended = self.final_attn_token_to_image(queries + tokens, image + image_code, image)
        return self.norm_final_attn(queries + attended), image


class TwoWayLayer(nn.Module):
    """Self attention of tokens, tokens to image, MLP of tokens, image to tokens; each normalised after its residual.

    Args:
        channels: Number of channels, C.
        mlp_channels: Inner channels of the MLP.
        is_first: Whether this is the first layer, whose self attention has neither positional code nor residual.
        norm_epsilon: Epsilon of the layer norms.
    """

    def __init__(self, channels: int, mlp_channels: int, *, is_first: bool, norm_epsilon: float = 1e-5) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(channels, channels)
        self.norm1 = nn.LayerNorm(channels, eps=norm_epsilon)
        self.cross_attn_token_to_image = Attention(channels, channels // 2)
        self.norm2 = nn.LayerNorm(channels, eps=norm_epsilon)
        self.mlp = MLPBlock(channels, mlp_channels)
        self.norm3 = nn.LayerNorm(channels, eps=norm_epsilon)
        self.norm4 = nn.LayerNorm(channels, eps=norm_epsilon)
        self.cross_attn_image_to_token = Attention(channels, channels // 2)

    def forward(self, queries: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Update queries (P, T, C) and image (P, M, C), given the positional codes of both."""
        if self.is_first:
            queries = self.self_attn(queries, queries, queries)
        else:
            coded = queries + token_code
            queries = queries + self.self_attn(coded, coded, queries)
        queries = self.norm1(queries)
        coded_image = image + image_code
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + token_code, coded_image, image))
        queries = self.norm3(queries + self.mlp(queries))
        image = self.norm4(image + self.cross_attn_image_to_token(coded_image, queries + token_code, queries))
        return queries, image


class Attention(nn.Module):
    """Multi-head attention with 8 heads; no mask, no dropout."""

    def __init__(self, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, inner_channels)
        self.k_proj = nn.Linear(channels, inner_channels)
        self.v_proj = nn.Linear(channels, inner_channels)
        self.out_proj = nn.Linear(inner_channels, channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(P, n, C), (P, m, C), (P, m, C) -> (P, n, C)."""
        q = _split_heads(self.q_proj(queries))  # (P, 8, n, d)
        k = _split_heads(self.k_proj(keys))  # (P, 8, m, d)
        v = _split_heads(self.v_proj(values))  # (P, 8, m, d)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]), dim=3)  # (P, 8, n, m)
        attended: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return attended


class MLPBlock(nn.Module):
    """Two linear layers with ReLU between."""

    def __init__(self, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, inner_channels)
        self.lin2 = nn.Linear(inner_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y: Tensor = self.lin2(functional.relu(self.lin1(x)))
        return y


def _split_heads(x: Tensor) -> Tensor:
    prompts, count, channels = x.shape
    return x.reshape(prompts, count, HEADS, channels // HEADS).transpose(1, 2)  # (P, 8, n, C/8)
