"""Threads for work on a disk that may hang, as a network volume does, without a wait for them when the process ends."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DiskBusy(Exception):
    """The disk is not asked: it keeps failing, too much work waits for it, or the service is stopping."""


class Pause:
    """Refuses work for some time after failures in a row. Then one call is let through, and decides.

    Args:
        failures: Failures in a row after which work is refused.
        pause_s: Time for which it is refused, seconds.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self, *, failures: int = 3, pause_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._pause_s = pause_s
        self._clock = clock
        self._consecutive = 0
        self._next_call: float | None = None  # None while work is accepted

    @property
    def is_on(self) -> bool:
        """Whether work is refused."""
        return self._next_call is not None

    def admit(self) -> None:
        """Admit a call, which then reports `succeeded` or `failed`.

        Raises:
            DiskBusy: Work is refused now.
        """
        if self._next_call is None:
            return
        if self._clock() < self._next_call:
            raise DiskBusy("The disk kept failing, and is not asked now.")
        self._next_call = self._clock() + self._pause_s

    def succeeded(self) -> None:
        """Report that the disk answered, which ends the pause."""
        self._consecutive, self._next_call = 0, None

    def failed(self) -> None:
        """Report a failure. The last of `failures` in a row begins a pause."""
        self._consecutive += 1
        if self._consecutive >= self._failures:
            self._next_call = self._clock() + self._pause_s


class DiskThreads:
    """A few threads with a bounded queue.

    A call that hangs keeps its thread. So a disk that hangs takes the threads here, and no others. `ThreadPoolExecutor`
    would wait for such a thread at the end of the process.

    Args:
        name: Name of the threads, as a debugger shows them.
        threads: Number of threads.
        max_calls: Largest number of calls that wait or run.
    """

    def __init__(self, name: str, threads: int, *, max_calls: int) -> None:
        self._name = name
        self._count = threads
        self._max_calls = max_calls
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._unfinished: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    async def run(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run a blocking function in a thread.

        Args:
            function: Function to run.
            timeout_s: Longest wait, seconds. A function that has begun by then goes on.

        Raises:
            DiskBusy: The function is not run.
            TimeoutError: It has not ended in time.
            Exception: Errors of the function.
        """
        future = self._submit(function)
        del function
        waiting = asyncio.wrap_future(future)
        # An error after the wait has nobody to receive it; without this the event loop would log it.
        waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait({waiting}, timeout=timeout_s)
        finally:
            if not waiting.done():
                future.cancel()  # takes it out of the queue; a function that runs goes on
        if not waiting.done() or waiting.cancelled():
            raise TimeoutError(f"The disk did not answer within {timeout_s:g} s.")
        return waiting.result()

    async def aclose(self, timeout_s: float) -> None:
        """Accept no more work, and wait for what runs and waits.

        Args:
            timeout_s: Longest wait, seconds. A thread that hangs then does not keep the process from ending.
        """
        with self._lock:
            self._is_closed = True
            unfinished = list(self._unfinished)
        for _ in self._threads:
            self._calls.put(None)
        if unfinished:
            await asyncio.wait({asyncio.wrap_future(future) for future in unfinished}, timeout=timeout_s)

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise DiskBusy("The service is stopping.")
            if len(self._unfinished) >= self._max_calls:
                raise DiskBusy("Too many calls wait for the disk.")
            self._unfinished.add(future)
        future.add_done_callback(self._ended)
        if len(self._threads) < self._count:
            name = f"edgesam-{self._name}_{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._calls.put((future, function))
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._unfinished.discard(future)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            del call
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:  # noqa: BLE001 - the caller gets it
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, function  # a thread that waits holds no value
