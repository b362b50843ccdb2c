"""Thread pools for blocking work that needs no batching: reading images, parsing bodies, preparing image states."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from service.inference.scheduling.thread_priority import lower_thread_priority
from service.telemetry.timings import Timings

Result = TypeVar("Result")


class TimedExecutor:
    """A thread pool that records how long work waited for a thread. First come, first served.

    Admission bounds the waiting work of each caller.

    Args:
        name: Name of the threads, as a debugger shows them.
        threads: Number of threads.
        low_priority: Whether the threads get a lower priority than all other threads of the process.
    """

    def __init__(self, name: str, threads: int, *, low_priority: bool = False) -> None:
        self.executor = ThreadPoolExecutor(
            threads,
            thread_name_prefix=f"edgesam-{name}",
            initializer=lower_thread_priority if low_priority else None,
        )

    async def run(self, timings: Timings, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking function in a thread. The time until a thread is free is recorded as stage `queue`.

        Cancelling the caller cancels work that still waits, and drops its arguments at once.

        Args:
            timings: Stage timings of the current request.
            function: Blocking function that a thread runs.
            arguments: Arguments of the function.
        """
        submitted_at = perf_counter()
        # The pool keeps cancelled work in its queue until a thread is free. This list releases the arguments at once.
        pending = [partial(function, *arguments)]
        del function, arguments  # the traceback of an error holds this frame

        def work() -> Result:
            timings.add("queue", perf_counter() - submitted_at)
            return pending.pop()()

        try:
            return await asyncio.get_running_loop().run_in_executor(self.executor, work)
        except asyncio.CancelledError:
            pending.clear()
            raise

    def close(self) -> None:
        """Wait for the work that runs and the work that waits, then end the threads."""
        self.executor.shutdown()
