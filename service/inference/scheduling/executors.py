"""Threads for blocking work that is not a lane's, and how urgent their work is."""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from service.inference.scheduling.fairness import FairScheduler
from service.telemetry.metrics import Timings

Result = TypeVar("Result")

# Half a click's share of the processor would be nice 3; at 10 an upload gets a tenth as long as clicks want the rest.
YIELDING_NICE = 10


@dataclass(slots=True, eq=False)
class _Waiting:
    work: Callable[[], Any]
    future: Future[Any]


class Workers:
    """A pool of threads for one kind of work. Where several callers wait they take turns, a piece of work each.

    Args:
        name: of the threads, as a debugger shows them.
        threads: how many.
        yields: whether they give way to all other threads of the process.
    """

    def __init__(self, name: str, threads: int, *, yields: bool = False) -> None:
        self.executor = ThreadPoolExecutor(
            threads, thread_name_prefix=f"edgesam-{name}", initializer=give_way if yields else None
        )
        self._lock = threading.Lock()  # guards what follows
        self._waiting: dict[str, deque[_Waiting]] = {}  # by caller; nobody is in it without work
        self._turns = FairScheduler()

    async def run(self, timings: Timings, function: Callable[..., Result], *arguments: Any, caller: str = "") -> Result:
        """Run `function` off the event loop; the time it waits for a thread counts as stage `queue`.

        A cancelled caller gives its place up.

        Args:
            timings: of the request.
            function: blocking.
            arguments: of the function.
            caller: whose turn it takes; "" where nobody is told apart: first come, first served.
        """
        asked_at = perf_counter()

        def work() -> Result:
            timings.add("queue", perf_counter() - asked_at)
            return function(*arguments)

        entry = _Waiting(work, Future())
        with self._lock:
            # The executor's own queue says only that there is something to do; what it is, is chosen when a thread is
            # free. So a thread goes from one piece to the next without a turn of the event loop in between.
            self.executor.submit(self._work)
            self._waiting.setdefault(caller, deque()).append(entry)
        try:
            result: Result = await asyncio.wrap_future(entry.future)
        except asyncio.CancelledError:
            self._forget(caller, entry)
            raise
        finally:
            del entry  # an error holds this frame, and the entry the error: a circle with the arguments in it
        return result

    def close(self) -> None:
        """Wait for what runs and what waits, and end the threads."""
        self.executor.shutdown()

    def _work(self) -> None:
        entry = self._next()
        if entry is None:
            return  # its caller has gone
        future, work = entry.future, entry.work
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            future.set_exception(error)
        finally:
            del entry, future, work  # an error holds this frame, and would hold the picture with it

    def _next(self) -> _Waiting | None:
        """The oldest work of the caller whose turn it is; None when nobody waits."""
        with self._lock:
            while self._waiting:
                caller = self._turns.next(self._waiting)
                entry = self._take(caller, 0)
                if entry.future.set_running_or_notify_cancel():
                    self._turns.took(caller, 1)
                    if not self._waiting:
                        self._turns.forget()
                    return entry
            return None

    def _forget(self, caller: str, entry: _Waiting) -> None:
        """A thread may have taken it, or passed it over, in the meantime."""
        with self._lock:
            entries = self._waiting.get(caller, ())
            if entry in entries:
                self._take(caller, entries.index(entry))

    def _take(self, caller: str, position: int) -> _Waiting:
        entries = self._waiting[caller]
        entry = entries[position]
        del entries[position]
        if not entries:
            del self._waiting[caller]
        return entry


def give_way() -> None:
    """Let the calling thread, and the threads it starts from now on, yield the processors to the others.

    Linux keeps the nice value for each thread; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDING_NICE)
