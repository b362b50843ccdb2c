"""How many requests may be in the process at once; a request is refused before anything of it is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class AdmissionController:
    """A semaphore that is tried and never awaited: waiting would hide that the process is full.

    Args:
        max_requests: permits.
        what: the work in a few words, for the client's message.
    """

    def __init__(self, max_requests: int, what: str) -> None:
        self._free = max_requests
        self._max_requests = max_requests
        self._what = what

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one permit.

        Raises:
            Overloaded: none is free.
        """
        if self._free == 0:
            raise Overloaded(
                f"{self._max_requests} {self._what} are in progress, the most this process takes. Retry shortly.",
                retry_after_s=1.0,
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
