"""The models of the conformance weights: random, yet every number of them matters in masks and boxes."""

import torch
from conformance.weights import state_dict
from torch import nn

from model_store.checkpoint import model_from_state_dict
from model_store.network.granularity_module import GranularityModule, granularity_module
from model_store.network.model import PromptableModel, build_model

RARITY, CALM = 4.0, 0.25


def random_model(seed: int = 0) -> PromptableModel:
    """EdgeSAM in training form and eval mode."""
    return model_from_state_dict(_random_state(build_model(), seed)).eval()


def random_granularity(model: PromptableModel, seed: int = 0) -> GranularityModule:
    """The granularity module on a random model's encoder, in eval mode.

    Batch norms are fitted to a few frames, or nothing of the image would arrive at the boxes; scores are lowered, so
    that the best lie on both sides of the least that counts, and boxes stay of the order of their anchors.
    """
    module = granularity_module(model.image_encoder)
    module.load_state_dict(_random_state(module, seed))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    frames = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        module.train()(model.image_encoder.stages(frames))
        module.rpn_head.cls_header.pointwise_conv.bias.sub_(RARITY)
        module.rpn_head.reg_header.pointwise_conv.weight.mul_(CALM)
    return module.eval()


def _random_state(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    return {key: torch.from_numpy(array) for key, array in state_dict(shapes, seed).items()}
