"""Times of calls that are compared with each other: measured alternately, reported as percentiles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any, TypeVar

import numpy as np


@dataclass(slots=True)
class Samples:
    """Times of one contender's calls in milliseconds, and their results."""

    ms: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return a percentile of the times, in milliseconds; `share` is in per cent."""
        return float(np.percentile(self.ms, share))

    @property
    def p50(self) -> float:
        """Median of the times, in milliseconds."""
        return self.percentile(50)

    def cells(self) -> list[float]:
        """Return n, p50, p90 and p99: the cells of COLUMNS."""
        return [len(self.ms), self.p50, self.percentile(90), self.percentile(99)]


COLUMNS = ["n", "p50 ms", "p90 ms", "p99 ms"]


# Idle threads of ONNX Runtime spin for some 40 ms by default.
PAUSE_S = 0.06

Name = TypeVar("Name")


def interleaved(
    contenders: Mapping[Name, Callable[[], Any]], rounds: int, calls: int, *, warms: bool = True
) -> dict[Name, Samples]:
    """Measure all contenders in every round, so that other load of the machine affects all of them alike.

    A pause before each contender lets the threads of the previous one go to sleep.

    Args:
        contenders: Functions to measure, by name.
        rounds: Number of rounds. Every other round has the reverse order.
        calls: Measured calls per round and contender.
        warms: Whether an unmeasured call comes first, because processor caches hold data of the previous contender.
            Calls of half a second do not need it.
    """
    samples = {name: Samples() for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            call, own = contenders[name], samples[name]
            sleep(PAUSE_S)
            if warms:
                call()
            for _ in range(calls):
                started = perf_counter()
                answer = call()
                own.ms.append((perf_counter() - started) * 1000.0)
                own.answers.append(answer)
    return samples


def median(values: list[float]) -> float:
    """Return the median as a float, or NaN without values, which the report refuses."""
    return float(np.median(values)) if values else float("nan")
