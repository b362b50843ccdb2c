"""Stops asking a Redis that keeps failing, so that a dead one costs microseconds instead of a timeout a call."""

import logging
import time
from collections.abc import Callable

from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after consecutive failures; once every `open_s` a single call may try whether it is over.

    Letting a probe through starts the next waiting time at once. A probe that never reports (its process is
    stopping, its caller is gone) therefore blocks nothing: the next one is due `open_s` later.

    Args:
        failures: consecutive failures that open it.
        open_s: seconds between two probes while it is open.
        metrics: `edgesam_redis_breaker_open` follows the state.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        open_s: float = 5.0,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._open_s = open_s
        self._gauge = metrics.redis_breaker_open
        self._clock = clock
        self._consecutive = 0
        self._next_probe: float | None = None  # None while closed
        self._gauge.set(0)

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, all but the probes."""
        return self._next_probe is not None

    def check(self) -> None:
        """Nothing, if a call made now would be let through.

        Raises:
            CacheUnavailable: the breaker is open; carries the time to the next probe.
        """
        if self._next_probe is None:
            return
        wait_s = self._next_probe - self._clock()
        if wait_s > 0.0:
            raise CacheUnavailable(
                "The shared cache kept failing and is not asked for the moment.", retry_after_s=wait_s
            )

    def admit(self) -> None:
        """Let a call through; its caller reports `succeeded` or `failed`. In an open breaker it is the probe.

        Raises:
            CacheUnavailable: as `check`.
        """
        self.check()
        if self._next_probe is not None:
            self._next_probe = self._clock() + self._open_s

    def succeeded(self) -> None:
        """The server answered; closes the breaker."""
        self._consecutive = 0
        if self._next_probe is not None:
            self._next_probe = None
            self._gauge.set(0)
            _log.info("Redis answers again, the breaker is closed")

    def failed(self) -> None:
        """The server did not answer; the last of `failures` in a row opens the breaker, a failed probe keeps it so."""
        self._consecutive += 1
        if self._consecutive < self._failures:
            return
        if self._next_probe is None:
            self._gauge.set(1)
            _log.warning("Redis failed %d times in a row, the breaker is open", self._consecutive)
        self._next_probe = self._clock() + self._open_s
