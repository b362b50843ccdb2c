"""Threads for blocking work that is not a lane's, and how urgent their work is."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

from service.metrics import Stages

Result = TypeVar("Result")

# Half a click's share of the processor would be nice 3; at 10 an upload gets a tenth as long as clicks want the rest.
YIELDING_NICE = 10


class Workers:
    """A pool of threads for one kind of work.

    Args:
        name: of the threads, as a debugger shows them.
        threads: how many.
        yields: whether they give way to all other threads of the process.
    """

    def __init__(self, name: str, threads: int, *, yields: bool = False) -> None:
        self.executor = ThreadPoolExecutor(
            threads, thread_name_prefix=f"edgesam-{name}", initializer=give_way if yields else None
        )

    async def run(self, stages: Stages, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run `function` off the event loop; the time it waits for a thread counts as stage `queue`."""
        asked_at = perf_counter()

        def work() -> Result:
            stages.add("queue", perf_counter() - asked_at)
            return function(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self.executor.shutdown()


def give_way() -> None:
    """Let the calling thread, and the threads it starts from now on, yield the processors to the others.

    Linux keeps the nice value for each thread; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDING_NICE)
