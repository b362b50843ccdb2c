"""The deadline of a request: for the event loop, and for worker threads, which cannot be interrupted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from service.errors import DeadlineExceeded


class Deadline:
    """A bound on the work of one request, which starts when the object is made.

    Args:
        seconds: Seconds that the work may take.
        work: Name of the work in the client's message, such as `Segmenting`.
    """

    def __init__(self, seconds: float, work: str) -> None:
        self._seconds = seconds
        self._ends_at = monotonic() + seconds
        self._work = work

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """Cancel the block when the time is over.

        Raises:
            DeadlineExceeded: The block was cancelled.
        """
        try:
            async with asyncio.timeout(self._ends_at - monotonic()):
                yield
        except TimeoutError as error:
            raise self._exceeded() from error

    def check(self) -> None:
        """Stop long work in a thread. Call it between the steps of the work.

        Raises:
            DeadlineExceeded: The time is over, so no client waits for the result.
        """
        if monotonic() > self._ends_at:
            raise self._exceeded()

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._work} took longer than {self._seconds:g} s. Ask for less at once, or retry later.",
            retry_after_s=1.0,
        )
