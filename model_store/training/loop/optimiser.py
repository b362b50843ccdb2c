"""AdamW with a learning rate for each group of parameters, and with moments by parameter name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_store.training.loop.distributed import DistributedContext

ParameterGroups = Sequence[tuple[float, Sequence[nn.Parameter]]]
"""Pairs of a learning-rate factor and the parameters that are trained with it."""
Moments = dict[str, dict[str, Tensor]]
"""AdamW's state (step, exp_avg, exp_avg_sq) by the name of the parameter."""


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """Settings of AdamW.

    Args:
        weight_decay: Weight decay of matrices and convolution kernels; biases and norms have none.
        betas: Decay rates of the two moments.
        clip: Largest norm of the gradient; a longer one is scaled down to it.
    """

    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 3.0


class Optimiser:
    """Trains a model's parameters by group.

    All gradients are views of one array. So one exchange averages them over the processes, without copies. Parameters
    that a step does not use have a gradient of 0.

    Attributes:
        moment_steps: Number of steps that the moments include; the smallest number where parameters differ.

    Args:
        model: Model whose parameters are trained.
        groups: Trained parameters, with their learning-rate factors.
        config: Settings of AdamW.
        context: Rank and world size of this process.
    """

    def __init__(
        self, model: nn.Module, groups: ParameterGroups, config: OptimiserConfig, context: DistributedContext
    ) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._context, self._clip = context, config.clip
        self._named = {names[id(value)]: value for _, values in groups for value in values if value.requires_grad}
        self._gradients = _flat_gradients(list(self._named.values()))
        self._adam = torch.optim.AdamW(
            [
                {
                    "params": chosen,
                    "factor": factor,
                    "weight_decay": config.weight_decay if is_matrix else 0.0,
                }
                for factor, values in groups
                for is_matrix in (True, False)
                if (chosen := [value for value in values if value.requires_grad and (value.ndim > 1) == is_matrix])
            ],
            lr=0.0,
            betas=config.betas,
            fused=True,
        )
        self.moment_steps = 0

    def zero_gradients(self) -> None:
        """Set all gradients to 0."""
        self._gradients.zero_()

    def step(self, rate: float) -> Tensor:
        """Make one step along the gradients, averaged over the processes.

        Args:
            rate: Learning rate, before each group's factor.

        Returns:
            Norm of the gradient before clipping, on the device of the parameters. If it is not finite, the parameters
            stay unchanged: a single batch that overflows must not end a long run.
        """
        self._context.average(self._gradients)
        norm: Tensor = torch.linalg.vector_norm(self._gradients)
        if bool(torch.isfinite(norm)):
            self._gradients *= (self._clip / (norm + 1e-6)).clamp(max=1.0)
            for group in self._adam.param_groups:
                group["lr"] = rate * group["factor"]
            self._adam.step()
            self.moment_steps += 1
        return norm

    def moments(self) -> Moments:
        """Return the moments on the CPU; for parameters on the CPU they are views that the next step changes."""
        return {
            name: {key: part.detach().cpu() for key, part in self._adam.state[value].items()}
            for name, value in self._named.items()
            if self._adam.state[value]
        }

    def load_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load the moments of parameters that have the same name and shape; other moments start at zero."""
        steps = []
        for name, value in self._named.items():
            found = moments.get(name)
            if found is None or found["exp_avg"].shape != value.shape:
                steps.append(0)
                continue
            steps.append(int(found["step"]))
            # The fused step requires the same memory layout for a parameter and its moments.
            self._adam.state[value] = {
                "step": found["step"].to(value.device, torch.float32).clone(),
                **{key: torch.empty_like(value).copy_(found[key]).detach() for key in ("exp_avg", "exp_avg_sq")},
            }
        self.moment_steps = min(steps)


def _flat_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Give each parameter a gradient that is a view of the returned array, with the parameter's strides."""
    flat = torch.zeros(sum(value.numel() for value in parameters), device=parameters[0].device)
    offset = 0
    for value in parameters:
        value.grad = flat.as_strided(value.shape, value.stride(), offset)
        offset += value.numel()
    return flat
