"""Admission: how many requests may be in the process at once. The others are refused before their body is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import RateLimited
from service.inference.scheduling.fairness import FairCapacity


class AdmissionController:
    """A semaphore that refuses instead of waiting: waiting would hide that the process is full.

    No caller may have all permits (`FairCapacity`), so that one that floods the process leaves permits to others.

    Args:
        max_requests: Number of permits.
        work: Name of the requests in the client's message, such as `uploads`.
        check: Function that raises Overloaded where a later queue would refuse the caller in any case. A refusal here
            costs a fraction of a millisecond less. Under a flood that is most of the work.
    """

    def __init__(self, max_requests: int, work: str, *, check: Callable[[str], None] = lambda _: None) -> None:
        self._capacity = FairCapacity(max_requests, f"{work} are in progress")
        self._check = check

    @contextmanager
    def permit(self, caller: str = "") -> Iterator[None]:
        """Hold one permit.

        Args:
            caller: Name of the API key; "" without API keys: then all requests share all permits.

        Raises:
            Overloaded: No permit is free, the caller holds its share of them, or `check` refused.
        """
        self._check(caller)
        self._capacity.check(caller)
        self._capacity.acquire(caller)
        try:
            yield
        finally:
            self._capacity.release(caller)


class OnePerCaller:
    """Permits of requests that compute for seconds: few in all, and one for each API key.

    Args:
        max_requests: Number of permits.
        work: Name of the requests in the client's message, such as `everything requests`.
        route: Route of the requests, for the client's message.
    """

    def __init__(self, max_requests: int, work: str, route: str) -> None:
        self._admission = AdmissionController(max_requests, work)
        self._route = route
        self._callers: set[str] = set()

    @contextmanager
    def permit(self, caller: str = "") -> Iterator[None]:
        """Hold one permit.

        Args:
            caller: Name of the API key; "" without API keys: then all requests share all permits.

        Raises:
            RateLimited: The API key holds a permit already.
            Overloaded: No permit is free.
        """
        if caller in self._callers:
            raise RateLimited(
                f"A request of this API key to {self._route} is in progress in this replica, and a key has one at a "
                "time. Wait for its answer, or close its connection, then send the next one.",
                retry_after_s=1.0,
                extra={"limit": 1},
            )
        with self._admission.permit():
            if caller:
                self._callers.add(caller)
            try:
                yield
            finally:
                self._callers.discard(caller)
