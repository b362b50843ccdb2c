"""Times of calls that are compared with each other: measured in turn, told by percentiles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any, TypeVar

import numpy as np


@dataclass(slots=True)
class Samples:
    """Milliseconds of one contender's calls, and what each answered."""

    ms: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The time that `share` per cent of the calls did not exceed, ms."""
        return float(np.percentile(self.ms, share))

    @property
    def p50(self) -> float:
        """The median, ms."""
        return self.percentile(50)

    def cells(self) -> list[float]:
        """n, p50, p90, p99, as tables have them."""
        return [len(self.ms), self.p50, self.percentile(90), self.percentile(99)]


COLUMNS = ["n", "p50 ms", "p90 ms", "p99 ms"]


# Threads of ONNX Runtime that are out of work spin for some 40 ms, unless told not to.
PAUSE_S = 0.06

Name = TypeVar("Name")


def interleaved(
    contenders: Mapping[Name, Callable[[], Any]], rounds: int, calls: int, *, warms: bool = True
) -> dict[Name, Samples]:
    """Visit every contender once a round, so that whatever else the machine does meets all of them alike.

    Args:
        contenders: what to call, by name.
        rounds: visits of each; every other round goes backwards.
        calls: calls counted a visit.
        warms: one more call before them is not counted: it finds the caches full of its predecessor's data. Calls of
            half a second need none.

    Before each visit there is a pause in which the predecessor's threads go to sleep.
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
    """The median as a plain float; of nothing, NaN, which the report refuses."""
    return float(np.median(values)) if values else float("nan")
