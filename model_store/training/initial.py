"""Initial weights for training: backbones pretrained on ImageNet where they exist, else random weights."""

import torch
from torch import Tensor, nn

from model_store.architectures import DEFAULT_ARCHITECTURE
from model_store.checkpoint import seeded_model
from model_store.network.encoders.lite_encoder import LiteEncoder
from model_store.network.model import PromptableModel
from model_store.network.transformer import Attention
from model_store.training.pretrained import load_imagenet_weights

SHARPNESS = 2.5
"""Factor of the query and key projections between tokens and image."""


@torch.no_grad()
def initial_model(seed: int, name: str = DEFAULT_ARCHITECTURE) -> PromptableModel:
    """Return an initial model whose attention is localised around the prompts.

    In attention between tokens and image, queries and keys start with the same projection. Both contain the Fourier
    code of their position, so their product is a peak around the prompt from the first step on, instead of noise. The
    projections are enlarged, since with the default scale the peak would hardly exceed the mean of the map.

    Args:
        seed: Seed of the random weights.
        name: Name of the architecture.

    Raises:
        PretrainedError: The encoder starts from ImageNet weights that are not installed.
    """
    model = seeded_model(seed, name)
    if isinstance(model.image_encoder, LiteEncoder):
        load_imagenet_weights(model.image_encoder.backbone)
    transformer = model.mask_decoder.transformer
    between: list[Tensor | nn.Module] = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        between += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in between:
        assert isinstance(attention, Attention)
        attention.q_proj.weight *= SHARPNESS
        attention.k_proj.weight.copy_(attention.q_proj.weight)
    return model
