"""Admission: how many requests may be in the process at once. The others are refused before their body is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
