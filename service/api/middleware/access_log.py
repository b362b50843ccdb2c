"""The log of requests: one line each, and under a flood of refusals some of them."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from starlette.types import Scope

from service.errors import Overloaded, RateLimited
from service.telemetry.timings import Timings

logger = logging.getLogger("service.request")

# Who is refused asks again, thousands of times a second: their lines would cost the processor that the others' answers
# need, and fill the disk. The counter of refusals has all of them.
REFUSED: Final = frozenset({Overloaded.code, RateLimited.code})
MOST_REFUSALS_PER_S = 10


class RequestLog:
    """Writes the lines.

    Of refusals, the first of a second has one for each key and problem, so that who floods the service hides nobody.
    How many had none tells the next line of any request in a later second, as `unlogged_refusals`.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._refused: set[tuple[str, str]] = set()  # in this second: key and problem
        self._unlogged = 0

    def write(self, scope: Scope, status: int, seconds: float, timings: Timings) -> bool:
        """The line of a request that has been answered; `scope` has what RequestMiddleware set.

        Returns:
            Whether there is one.
        """
        state = scope["state"]
        second = int(self._clock())
        is_later = second != self._second
        if is_later:
            self._second, self._refused = second, set()
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
            **{key: state[key] for key in ("key", "trace_id", "problem", "cached", "prompts") if key in state},
        }
        if self._unlogged and is_later:
            line["unlogged_refusals"], self._unlogged = self._unlogged, 0
        logger.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra=line)
        return True
