"""Models with random weights, chosen such that every weight affects masks and boxes."""

import torch
from support.reference_weights import state_dict
from torch import nn

from model_store.checkpoint import model_from_state_dict
from model_store.network.granularity_module import GranularityModule, granularity_module
from model_store.network.model import PromptableModel, build_model

# Subtracted from the box scores, and factor of the box regression.
SCORE_SHIFT, REGRESSION_SCALE = 4.0, 0.25


def random_model(seed: int = 0) -> PromptableModel:
    """Return a model of the architecture edgesam, not deployed, in eval mode."""
    return model_from_state_dict(_random_state(build_model(), seed)).eval()


def random_granularity(model: PromptableModel, seed: int = 0) -> GranularityModule:
    """Return the granularity module for a random model's encoder, in eval mode.

    Batch norms are fitted to a few frames, so that the boxes depend on the image. Scores are lowered, so that the best
    ones are on both sides of the threshold. Boxes stay near the size of their anchors.
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
        module.rpn_head.cls_header.pointwise_conv.bias.sub_(SCORE_SHIFT)
        module.rpn_head.reg_header.pointwise_conv.weight.mul_(REGRESSION_SCALE)
    return module.eval()


def _random_state(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    return {key: torch.from_numpy(array) for key, array in state_dict(shapes, seed).items()}
