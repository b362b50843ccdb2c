"""Timings of the slowest clicks of an open loop, and the queue that random arrivals alone would make."""

import random
from collections.abc import Sequence

import numpy as np
from tools.bench.connection import parsed_timings
from tools.bench.load_generator import Exchange, Load, warm_seconds
from tools.bench.samples import Samples, median
from tools.bench.section import Table

_STAGES = ("queue", "decode", "postprocess", "serialize")
_SLOWEST = 0.01  # share of the clicks
_LEAST = 3  # clicks of a row


def tail_table(runs: Sequence[Load]) -> Table:
    """Return the median of each timing, of all clicks and of the slowest hundredth."""
    table = Table(
        "Open loop, random arrivals: median of each timing, ms (Server-Timing)",
        ["clicks", "n", "latency", *(f"`{name}`" for name in _STAGES), "other in the service", "outside"],
    )
    answered = sorted((each for run in runs for each in run.trace if each.status == "200"), key=lambda each: each.ms)
    slowest = answered[-max(_LEAST, round(len(answered) * _SLOWEST)) :]
    for name, chosen in (("all", answered), ("slowest 1 %", slowest)):
        table.rows.append([name, len(chosen), median([each.ms for each in chosen]), *_medians(chosen)])
    return table


def _medians(exchanges: Sequence[Exchange]) -> list[float]:
    rows = []
    for each in exchanges:
        timings = parsed_timings(each.timings)
        stages = [timings.get(name, 0.0) for name in _STAGES]
        total = timings.get("total", 0.0)
        rows.append([*stages, total - sum(stages), each.ms - total])
    return [float(value) for value in np.median(rows, axis=0)]


def ideal_queue(rate: float, seconds: float, seeds: Sequence[int], *, per_s: float, servers: int) -> Samples:
    """Return the latencies of an ideal queue with the arrivals of `LoadGenerator.open`, in order of arrival.

    Args:
        rate: Arrivals per second.
        seconds: Measured time of each run.
        seeds: Seeds of the runs.
        per_s: Requests per second of all servers together. Each request takes `servers / per_s` seconds.
        servers: Number of requests that are served at the same time.
    """
    service_s, latencies = servers / per_s, Samples()
    for seed in seeds:
        source, warm_s, due = random.Random(seed), warm_seconds(seconds), 0.0
        free_at = [0.0] * servers
        while due < warm_s + seconds:
            place = free_at.index(min(free_at))
            free_at[place] = max(due, free_at[place]) + service_s
            if due >= warm_s:
                latencies.ms.append((free_at[place] - due) * 1000.0)
            due += source.expovariate(1.0) / rate
    return latencies
