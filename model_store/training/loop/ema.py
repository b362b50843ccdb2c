"""The running mean of the weights, which is what a run hands out: smoother than the weights of any one step."""

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential mean of a model's parameters and running statistics.

    Args:
        model: whose weights are followed.
        decay: share of the mean that stays at each step; smaller at first, so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [key for key, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[key] for key in floats], [theirs[key] for key in floats], 1 - decay)
        for key, value in mine.items():
            if not value.is_floating_point():
                value.copy_(theirs[key])
