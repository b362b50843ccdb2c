"""The exponential moving average (EMA) of a model's weights, which a run saves instead of its last weights."""

import copy

import torch
from torch import nn

_TRAINED_STEPS = 10_000
"""Number of steps after which the decay is no longer reduced."""


class EMA:
    """Exponential moving average of a model's parameters and running statistics.

    Args:
        model: Model whose weights are averaged.
        decay: Share of the average that remains at each step, 0..1.
        is_trained: Whether the weights are trained. Initial weights should fade quickly: with them the decay is
            smaller in the first steps.

    Attributes:
        model: Copy of the model with averaged weights, in eval mode, without gradients.
        steps: Number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998, *, is_trained: bool = False) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = _TRAINED_STEPS if is_trained else 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [key for key, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[key] for key in floats], [current[key] for key in floats], 1 - decay)
        for key, value in averaged.items():
            if not value.is_floating_point():
                value.copy_(current[key])

    @torch.no_grad()
    def restore_buffers(self, model: nn.Module) -> None:
        """Replace the model's running statistics by the averaged ones, after a step that made them infinite or NaN."""
        buffers = dict(self.model.named_buffers())
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
