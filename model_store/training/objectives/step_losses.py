"""The losses of one training step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepLosses:
    """Losses of one step.

    Args:
        total: Scalar loss whose gradient is followed.
        parts: Parts of the loss by name, without gradients, for the log.
    """

    total: Tensor
    parts: dict[str, Tensor]
