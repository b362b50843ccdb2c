"""A circuit breaker: a Redis that keeps failing costs microseconds a call instead of a timeout."""

import logging
import time
from collections.abc import Callable

from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class CircuitBreaker:
    """A circuit breaker that opens after consecutive failures. While it is open it lets one probe through at a time.

    Admitting a probe starts the next waiting time at once. A probe that never reports, for instance because its
    process is stopping, therefore blocks nothing: the next one is due `open_s` later.

    Args:
        failures: Number of consecutive failures that open the breaker.
        open_s: Time between two probes while the breaker is open, seconds.
        metrics: Metrics whose gauge `edgesam_redis_breaker_open` follows the state.
        clock: Monotonic clock, seconds.
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
        """Whether calls other than probes are refused."""
        return self._next_probe is not None

    def check(self) -> None:
        """Raise if a call would be refused now.

        Raises:
            CacheUnavailable: The breaker is open. The error carries the time to the next probe.
        """
        if self._next_probe is None:
            return
        wait_s = self._next_probe - self._clock()
        if wait_s > 0.0:
            raise CacheUnavailable("The shared cache kept failing and is not asked for now.", retry_after_s=wait_s)

    def admit(self) -> None:
        """Admit a call, which then reports `succeeded` or `failed`. In an open breaker it is the probe.

        Raises:
            CacheUnavailable: The breaker is open, see `check`.
        """
        self.check()
        if self._next_probe is not None:
            self._next_probe = self._clock() + self._open_s

    def succeeded(self) -> None:
        """Report that the server answered, which closes the breaker."""
        self._consecutive = 0
        if self._next_probe is not None:
            self._next_probe = None
            self._gauge.set(0)
            _log.info("Redis answers again, the breaker is closed")

    def failed(self) -> None:
        """Report that the server did not answer. The last of `failures` in a row opens the breaker."""
        self._consecutive += 1
        if self._consecutive < self._failures:
            return
        if self._next_probe is None:
            self._gauge.set(1)
            _log.warning("Redis failed %d times in a row, the breaker is open", self._consecutive)
        self._next_probe = self._clock() + self._open_s
