"""The learning-rate schedule: warm-up, constant, then a cosine decay over the last share of the budget.

The decay depends on the share of the budget and not on steps, since the budget is minutes and speed differs.
"""

import math
from dataclasses import dataclass

LONGEST_WARM_UP = 0.1
"""Share of the budget after which the warm-up ends at the latest, so that short runs reach the highest rate."""


@dataclass(frozen=True, slots=True)
class LearningRate:
    """Learning rate of a run.

    Args:
        highest: Learning rate between warm-up and decay.
        warm_up_steps: Number of steps of the warm-up from 0. It counts steps of the optimiser's moments, so a run with
            older moments has none. It ends after a tenth of the budget at the latest.
        fall: Last share of the budget, in which the rate decays along half a cosine; 0..1.
        last: Learning rate at the end, as a share of `highest`.

    Raises:
        ValueError: A value is out of its range.
    """

    highest: float
    warm_up_steps: int = 60
    fall: float = 0.33
    last: float = 0.02

    def __post_init__(self) -> None:
        if self.highest <= 0:
            raise ValueError(f"The learning rate is above 0, not {self.highest:g}.")
        if not 0 <= self.fall <= 1:
            raise ValueError(f"The share of the budget in which the learning rate falls is 0 to 1, not {self.fall:g}.")

    def at(self, progress: float, *, moment_steps: int) -> float:
        """Return the learning rate of a step.

        Args:
            progress: Share of the budget that has passed, 0..1.
            moment_steps: Number of steps that the optimiser's moments include.
        """
        warm_up = min(max((moment_steps + 1) / (self.warm_up_steps + 1), progress / LONGEST_WARM_UP), 1.0)
        start = 1.0 - self.fall
        if progress <= start:
            return self.highest * warm_up
        fallen = 0.5 * (1 + math.cos(math.pi * min((progress - start) / self.fall, 1.0)))
        return self.highest * warm_up * (self.last + (1 - self.last) * fallen)
