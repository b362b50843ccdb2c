"""What a run does when: frame sizes and learning rate by the share of its time that has gone.

A run is given minutes, not steps: on a borrowed machine the time is what is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """Part of a run at these frame sizes in turn, step by step, until this share of the run's time.

    Weights learned at one size answer badly at another: the decoder has seen no other number of tokens. A stage of
    several sizes is the way from one to the next.
    """

    frame_sizes: tuple[int, ...]
    until: float

    def frame_size(self, step: int) -> int:
        """The size of a step, the same in all processes."""
        return self.frame_sizes[step % len(self.frame_sizes)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stages in order, and a cosine with a short warm-up.

    Args:
        stages: the last one ends at 1.
        batch: pictures a step, of all processes together, at `batch_frame`; other frames take as many pixels.
        batch_frame: frame size in pixels that `batch` is for.
        learning_rate: the highest.
        warm_up: share of the time in which it rises from 0.
        last: what is left of it at the end.
        least_batch: pictures of a step in each process at least; two, unless nothing needs a second one.
    """

    stages: tuple[Stage, ...]
    batch: int = 16
    batch_frame: int = 256
    learning_rate: float = 1e-3
    warm_up: float = 0.03
    last: float = 0.02
    least_batch: int = 2

    def __post_init__(self) -> None:
        ends = [stage.until for stage in self.stages]
        if not ends or ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(f"Stages end at rising shares of the time, the last at 1, not {ends}.")
        for stage in self.stages:
            if not stage.frame_sizes or any(size <= 0 or size % 32 for size in stage.frame_sizes):
                raise ValueError(f"Frame sizes are multiples of 32, not {stage.frame_sizes}.")

    def stage(self, progress: float) -> Stage:
        """The stage at a share of the time."""
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])

    def batch_size(self, frame_size: int, processes: int = 1) -> int:
        """Pictures of a step in each of the processes."""
        return max(self.least_batch, round(self.batch * (self.batch_frame / frame_size) ** 2 / processes))

    def rate(self, progress: float) -> float:
        """Learning rate at a share of the time."""
        if progress < self.warm_up:
            return self.learning_rate * max(progress / self.warm_up, 0.01)
        turn = min((progress - self.warm_up) / (1 - self.warm_up), 1.0)
        return self.learning_rate * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * turn)))


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages from "256:0.4,256/512:0.8,512:1": frame sizes and the share of the time at which they end.

    Raises:
        ValueError: the text is not of this form.
    """
    stages = []
    for part in text.split(","):
        sizes, _, until = part.partition(":")
        stages.append(Stage(tuple(int(size) for size in sizes.split("/")), float(until or 1.0)))
    return tuple(stages)


def describe_stages(stages: Sequence[Stage]) -> str:
    """The text that `parse_stages` reads."""
    return ",".join(f"{'/'.join(map(str, stage.frame_sizes))}:{stage.until:g}" for stage in stages)
