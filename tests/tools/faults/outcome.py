"""Results of experiments: rows of tables, and broken promises."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tools.bench.load_generator import Exchange

COLUMNS = ("fault", "asked for", "requests", "not answered 200", "p99 before", "during", "after, ms", "recovery, s")


@dataclass(frozen=True, slots=True)
class Interval:
    """Start and end of a fault, as perf_counter."""

    began_s: float
    ended_s: float


@dataclass(slots=True)
class Row:
    """Results of one kind of request during one fault.

    Args:
        fault: Name of the fault.
        asked: Kind of request.
        requests: Number of requests.
        errors: Number of errors by `status code`, or by the error of the connection.
        p99_ms: 99th percentile of all responses before, during and after the fault. None without responses.
        slowest_ms: Time of the slowest response.
        recovery_s: Time from the end of the fault until no request failed any more.
    """

    fault: str
    asked: str
    requests: int
    errors: dict[str, int]
    p99_ms: tuple[float | None, float | None, float | None]
    slowest_ms: float
    recovery_s: float

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        errors = ", ".join(f"{count} × {what}" for what, count in sorted(self.errors.items())) or "0"
        p99s = ["-" if ms is None else f"{ms:.0f}" for ms in self.p99_ms]
        recovery = f"{self.recovery_s:.1f}" if self.errors else "-"
        return [self.fault, self.asked, str(self.requests), errors, *p99s, recovery]


@dataclass(slots=True)
class Outcome:
    """Results of one experiment.

    Attributes:
        name: Name of the experiment.
        rows: Rows of its table.
        facts: Other measured values by name.
        broken: Promises that were broken.
        where: Description of the machine. Results that are written into a document later keep it.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    where: str = ""

    def promise(self, is_kept: object, otherwise: str) -> None:
        """Record `otherwise` if a promise is broken. The experiment goes on, because its results may explain why."""
        if not is_kept:
            self.broken.append(f"{self.name}: {otherwise}")

    def document(self) -> dict[str, Any]:
        """Return the results as a JSON document."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Outcome":
        """Return the results of a JSON document."""
        rows = [Row(**{**row, "p99_ms": tuple(row["p99_ms"])}) for row in document["rows"]]
        return cls(document["name"], rows, document["facts"], document["broken"], document["where"])


def row_of(fault: str, asked: str, trace: Sequence[Exchange], interval: Interval) -> Row:
    """Return the row of a traced load. A request counts at the time when it was due."""
    failed = [exchange for exchange in trace if exchange.status != "200"]
    late = [one.due_s + one.ms / 1000.0 - interval.ended_s for one in failed if one.due_s > interval.began_s]
    parts = (
        [one.ms for one in trace if one.due_s < interval.began_s],
        [one.ms for one in trace if interval.began_s <= one.due_s < interval.ended_s],
        [one.ms for one in trace if one.due_s >= interval.ended_s],
    )
    before, during, after = (float(np.percentile(part, 99)) if part else None for part in parts)
    return Row(
        fault=fault,
        asked=asked,
        requests=len(trace),
        errors=dict(Counter(f"{one.status} {one.code}".strip() for one in failed)),
        p99_ms=(before, during, after),
        slowest_ms=max((one.ms for one in trace), default=0.0),
        recovery_s=max(0.0, *late) if late else 0.0,
    )
