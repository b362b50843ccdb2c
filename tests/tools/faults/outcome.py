"""What came of one fault: rows for people, and the promises that were not kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tools.bench.load_generator import Exchange

COLUMNS = ("fault", "asked for", "requests", "not answered 200", "p99 before", "during", "after, ms", "recovery, s")


@dataclass(frozen=True, slots=True)
class Spell:
    """When a fault was there, perf_counter."""

    began_s: float
    ended_s: float


@dataclass(slots=True)
class Row:
    """One kind of request through one fault.

    Args:
        errors: how many by `status code`, or by what went wrong with the connection.
        p99_ms: before, during and after; of all answers, whatever they say. None where there were none.
        recovery_s: from the fault's end until nothing failed any more.
    """

    fault: str
    asked: str
    requests: int
    errors: dict[str, int]
    p99_ms: tuple[float | None, float | None, float | None]
    slowest_ms: float
    recovery_s: float

    def cells(self) -> list[str]:
        """As the table has it."""
        errors = ", ".join(f"{count} × {what}" for what, count in sorted(self.errors.items())) or "0"
        p99s = ["-" if ms is None else f"{ms:.0f}" for ms in self.p99_ms]
        recovery = f"{self.recovery_s:.1f}" if self.errors else "-"
        return [self.fault, self.asked, str(self.requests), errors, *p99s, recovery]


@dataclass(slots=True)
class Outcome:
    """One experiment.

    Attributes:
        facts: figures beside the rows.
        broken: promises that were not kept.
        where: it was measured, on what; figures that are written down later keep it.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    where: str = ""

    def promise(self, is_kept: object, otherwise: str) -> None:
        """Note what did not hold; the experiment goes on, since its figures tell why."""
        if not is_kept:
            self.broken.append(f"{self.name}: {otherwise}")

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Outcome":
        """From JSON."""
        rows = [Row(**{**row, "p99_ms": tuple(row["p99_ms"])}) for row in document["rows"]]
        return cls(document["name"], rows, document["facts"], document["broken"], document["where"])


def row_of(fault: str, asked: str, trace: Sequence[Exchange], spell: Spell) -> Row:
    """What a traced load saw of a fault; a request belongs to the time when it was due."""
    failed = [exchange for exchange in trace if exchange.status != "200"]
    late = [one.due_s + one.ms / 1000.0 - spell.ended_s for one in failed if one.due_s > spell.began_s]
    parts = (
        [one.ms for one in trace if one.due_s < spell.began_s],
        [one.ms for one in trace if spell.began_s <= one.due_s < spell.ended_s],
        [one.ms for one in trace if one.due_s >= spell.ended_s],
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
