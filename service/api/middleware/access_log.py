"""The access log: one line for each request; refusals are limited to a few lines per second."""

import logging
from collections.abc import Callable, Container
from time import monotonic
from typing import Final

from starlette.types import Scope

from service.errors import Overloaded, RateLimited
from service.telemetry.timings import Timings

logger = logging.getLogger("service.request")

# A refused client may retry thousands of times a second. Its lines would take processor time from other requests and
# fill the disk. The metric edgesam_rejected_total counts all of them.
REFUSED: Final = frozenset({Overloaded.code, RateLimited.code})
MOST_REFUSALS_PER_S = 10
MOST_DETAILS_PER_S = 10
MOST_DETAIL_CHARACTERS = 500
# Members of the state of a request that its line has, where they are set.
_FIELDS: Final = ("key", "trace_id", "problem", "model", "cached", "prompts", "masks")


class RequestLog:
    """Writes the lines of the access log.

    Of the refusals with one key and problem in a second, only the first gets a line. So one key that floods the service
    does not hide the refusals of other keys. The next line of a later second has the number of refusals without a line,
    as `unlogged_refusals`.

    Some routes answer tools that show no problem to their users. The lines of these routes have the `detail` of the
    problem. Of lines with the same detail in a second, only the first has it.

    Args:
        clock: Monotonic clock, in seconds.
        detailed_routes: Templates of the routes whose lines have the detail.
    """

    def __init__(
        self, clock: Callable[[], float] = monotonic, *, detailed_routes: Container[str] = frozenset()
    ) -> None:
        self._detailed_routes = detailed_routes
        self._clock = clock
        self._second = 0
        self._refused: set[tuple[str, str]] = set()  # in this second: key and problem
        self._details: set[str] = set()  # in this second
        self._unlogged = 0

    def write(self, scope: Scope, status: int, seconds: float, timings: Timings) -> bool:
        """Write the line of a request that has been answered.

        Args:
            scope: ASGI scope of the request, with the state that RequestMiddleware sets.
            status: HTTP status of the answer.
            seconds: Duration of the request, in seconds.
            timings: Durations of the stages of the request.

        Returns:
            Whether a line was written.
        """
        state = scope["state"]
        second = int(self._clock())
        is_later = second != self._second
        if is_later:
            self._second, self._refused, self._details = second, set(), set()
        if (problem := state.get("problem", "")) in REFUSED:
            kind = (state.get("key", ""), problem)
            if kind in self._refused or len(self._refused) == MOST_REFUSALS_PER_S:
                self._unlogged += 1
                return False
            self._refused.add(kind)
        line = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "route": state["route"],
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "stages_ms": {stage: round(ms, 2) for stage, ms in timings.elapsed_ms().items()},
            **{key: state[key] for key in _FIELDS if key in state},
        }
        if "detail" in state and state["route"] in self._detailed_routes:
            detail = state["detail"][:MOST_DETAIL_CHARACTERS]
            if detail not in self._details and len(self._details) < MOST_DETAILS_PER_S:
                self._details.add(detail)
                line["detail"] = detail
        if self._unlogged and is_later:
            line["unlogged_refusals"], self._unlogged = self._unlogged, 0
        logger.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra=line)
        return True
