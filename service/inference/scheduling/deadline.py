"""The bound on one request's work, for the event loop and for the worker threads that nobody can interrupt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from service.errors import DeadlineExceeded


class Deadline:
    """Ends `seconds` after it was made.

    Args:
        seconds: time the work may take.
        what: the work in a few words, for the client's message.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._ends_at = monotonic() + seconds
        self._what = what

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """Cancel what awaits inside when the time is over.

        Raises:
            DeadlineExceeded: it was.
        """
        try:
            async with asyncio.timeout(self._ends_at - monotonic()):
                yield
        except TimeoutError as error:
            raise self._exceeded() from error

    def check(self) -> None:
        """For long work in a thread, to be called between its steps.

        Raises:
            DeadlineExceeded: the time is over, so nobody waits for the result.
        """
        if monotonic() > self._ends_at:
            raise self._exceeded()

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._what} took longer than {self._seconds:g} s. Ask for less at once, or retry later.",
            retry_after_s=1.0,
        )
