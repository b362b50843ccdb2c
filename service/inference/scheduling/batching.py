"""Dynamic batching: a bounded fair queue, and worker threads that run several waiting items in one call."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar, overload

from service.errors import NotReady
from service.inference.scheduling.fairness import FairCapacity, FairScheduler
from service.telemetry.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")
Finished = TypeVar("Finished")


@dataclass(frozen=True, slots=True)
class Completed(Generic[Result]):
    """The result of one item, and the durations of its steps.

    Args:
        result: Result of the item, or of its `finish`.
        queue_s: Seconds that the item waited in the queue.
        run_s: Seconds that its batch ran.
        batch_size: Size of its batch.
        ran_until: End of the batch's run, in seconds of `time.perf_counter`. `finish` ran after it.
    """

    result: Result
    queue_s: float
    run_s: float
    batch_size: int
    ran_until: float


@dataclass(slots=True, eq=False)  # an entry equals itself alone: items may be arrays, which have no single truth value
class _Entry(Generic[Item, Result]):
    item: Item
    finish: Callable[[Result], Any] | None
    # Only the event loop settles it. Workers read whether the caller was cancelled.
    future: asyncio.Future[Completed[Any]]
    queued_at: float
    group: Hashable
    size: int
    is_admitted: bool
    caller: str


class DynamicBatcher(Generic[Item, Result]):
    """Runs waiting items together, grouped, in worker threads. It adds no delay of its own.

    While calls run, items gather in the queue. The next batch has the gathered items of one group, shared among the
    calls that can start now. Several callers share the batcher fairly (`FairScheduler`), and none may fill the queue
    (`FairCapacity`). An idle batcher runs a single item at once. An error of a batch reaches only its callers, and the
    batcher goes on.

    Workers take their items themselves, without a step of the event loop in between. So no processor is idle because
    the event loop is busy.

    Calls that run at the same time share `threads` computing threads: a call alone has all of them, several calls have
    a part each. While all are taken, items wait, because two calls on one processor would both only end later.

    Args:
        name: Name of the queue in metrics and messages.
        run: Blocking function that runs the items of one group. It gets the items and the number of computing threads,
            and returns as many results in the order of the items.
        group: Function that returns the group of an item. Items of different groups never share a batch.
        size: Function that returns the size of an item, of which a batch has at most `max_batch_size`.
        max_batch_size: Largest size of a batch. A larger item runs alone.
        max_queue_size: Largest number of waiting items; further ones are refused. Items that were admitted with an
            earlier item of their request do not count.
        calls: Number of batches that run at the same time.
        threads: Computing threads that the calls share, at least one for each.
        threads_per_call: Most computing threads of one call.
        metrics: Metrics of the process.
        finishers: Number of worker threads beside those of the calls, for the `finish` of items.
        initializer: Function that is run once in each worker thread.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item], int], Sequence[Result]],
        *,
        group: Callable[[Item], Hashable],
        size: Callable[[Item], int],
        max_batch_size: int,
        max_queue_size: int,
        calls: int,
        threads: int,
        metrics: Metrics,
        threads_per_call: int = sys.maxsize,
        finishers: int = 0,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self.calls = calls
        self._run = run
        self._group = group
        self._size = size
        self._max_batch_size = max_batch_size
        self._threads_per_call = threads_per_call
        self._initializer = initializer
        self._queue_wait_seconds = metrics.queue_wait_seconds.labels(name)
        self._batch_size = metrics.batch_size.labels(name)
        # Daemon threads: a process that fails before it closes the batcher still ends.
        self._workers = [
            threading.Thread(target=self._work, name=f"edgesam-{name}_{i}", daemon=True)
            for i in range(calls + finishers)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

        self._lock = threading.Lock()  # guards the attributes below
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._capacity = FairCapacity(max_queue_size, f"requests wait to {name}")
        self._scheduler = FairScheduler()
        self._finishing: deque[Callable[[], None]] = deque()
        self._idle: list[threading.Condition] = []  # the last one is woken first, because its caches are warm
        self._free_calls = calls
        self._free_threads = max(calls, threads)
        self._is_closed = False
        metrics.queue_depth.labels(name).set_function(self._count_waiting)

    def start(self) -> None:
        """Start the worker threads. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.start()

    @overload
    async def submit(self, item: Item, *, caller: str = "") -> Completed[Result]: ...
    @overload
    async def submit(
        self, item: Item, finish: Callable[[Result], Finished], *, is_admitted: bool = False, caller: str = ""
    ) -> Completed[Finished]: ...
    async def submit(
        self, item: Item, finish: Callable[[Result], Any] | None = None, *, is_admitted: bool = False, caller: str = ""
    ) -> Completed[Any]:
        """Queue an item, and wait for its result. Cancelling the caller removes the item from the queue.

        Args:
            item: Item to run.
            finish: Function that a worker calls with the item's result while other items run; its return value becomes
                the result.
            is_admitted: Whether an earlier item of the same request was admitted. A request is not refused half-way.
            caller: Name of the API key whose share the item uses; "" without API keys: then all requests share the
                whole queue.

        Raises:
            Overloaded: The queue is full, or the caller's share of it. No work was started.
            NotReady: The batcher is closing.
        """
        future: asyncio.Future[Completed[Any]] = asyncio.get_running_loop().create_future()
        group, size = self._group(item), self._size(item)
        entry = _Entry(item, finish, future, perf_counter(), group, size, is_admitted, caller)
        with self._lock:
            if self._is_closed:
                raise _closing()
            if not is_admitted:
                self._capacity.check(caller)
                self._capacity.acquire(caller)
            self._queue.append(entry)
            self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            with self._lock:
                if entry in self._queue:
                    self._remove(entry)
            raise
        finally:
            del entry, future  # they hold the error, and its traceback holds this frame: a cycle that keeps the item

    def check_admission(self, caller: str) -> None:
        """Refuse where `submit` would refuse, before the item is prepared. It reads without the lock.

        Args:
            caller: Name of the API key; "" without API keys.

        Raises:
            Overloaded: The queue is full, or the caller's share of it.
        """
        self._capacity.check(caller)

    async def aclose(self) -> None:
        """Fail the items in the queue with NotReady, wait for running batches, and end the threads."""
        with self._lock:
            self._is_closed = True
            waiting, self._queue = list(self._queue), deque()
            for worker in self._idle:
                worker.notify()
        for entry in waiting:
            _settle(entry.future, error=_closing())
        if self._loop is not None:
            await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        if self._initializer is not None:
            self._initializer()
        wakeup = threading.Condition(self._lock)
        while self._work_once(wakeup):
            pass

    def _work_once(self, wakeup: threading.Condition) -> bool:
        """Wait for work and do it; return False when the batcher is closed. It keeps no reference to the work."""
        with self._lock:
            while (work := self._next_work()) is None:
                if self._is_closed:
                    return False
                self._idle.append(wakeup)
                wakeup.wait()
            self._wake()
        work()
        del work  # see `submit`: the traceback of an error holds its frames
        return True

    def _next_work(self) -> Callable[[], None] | None:
        """Return the next work, if any. The `finish` of a result comes first: only this step delays its caller."""
        if self._finishing:
            return self._finishing.popleft()
        if self._free_calls == 0 or self._free_threads == 0:
            return None
        # Cancelled callers remove their items themselves, but only when the event loop runs them.
        for entry in [entry for entry in self._queue if entry.future.done()]:
            self._remove(entry)
        if not self._queue:
            self._scheduler.reset()
            return None
        batch = self._next_batch()
        self._free_calls -= 1
        shared = self._free_threads // (1 + min(self._free_calls, len(self._queue)))
        threads = max(1, min(shared, self._threads_per_call))
        self._free_threads -= threads
        return partial(self._run_batch, batch, threads)

    def _wake(self) -> None:
        """Wake another worker if there is work for it. That worker wakes the next one."""
        can_start = self._queue and self._free_calls > 0 and self._free_threads > 0
        if self._idle and (self._finishing or can_start):
            self._idle.pop().notify()

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """Remove the next batch from the queue.

        The first item is the oldest one of the next caller. Items of its group are added while they fit. The batch
        leaves the other free calls their parts of the queue.
        """
        share = -(-sum(entry.size for entry in self._queue) // min(self._free_calls, self._free_threads))
        oldest: dict[str, _Entry[Item, Result]] = {}
        for entry in self._queue:
            oldest.setdefault(entry.caller, entry)
        first = oldest[self._scheduler.next(oldest)]
        self._remove(first)
        batch, free = [first], min(self._max_batch_size, share) - first.size
        for entry in list(self._queue) if free > 0 else ():
            if entry.group == first.group and entry.size <= free:
                self._remove(entry)
                batch.append(entry)
                free -= entry.size
        for entry in batch:
            self._scheduler.charge(entry.caller, entry.size)
        return batch

    def _run_batch(self, batch: list[_Entry[Item, Result]], threads: int) -> None:
        started = perf_counter()
        for entry in batch:
            self._queue_wait_seconds.observe(started - entry.queued_at)
        size = sum(entry.size for entry in batch)
        self._batch_size.observe(size)
        finishing: list[Callable[[], None]] = []
        try:
            results = self._run([entry.item for entry in batch], threads)
            _check_length(batch, results)
            ended = perf_counter()
            for entry, result in zip(batch, results, strict=True):
                done = Completed(result, started - entry.queued_at, ended - started, size, ended)
                finishing.append(partial(self._finish, entry, done))
        except Exception as error:  # noqa: BLE001 - any error belongs to this batch, and the batcher goes on
            for entry in batch:
                self._deliver(entry, error=error)
        finally:
            with self._lock:
                self._free_calls += 1
                self._free_threads += threads
                self._finishing.extend(finishing)
            del batch, entry  # see `submit`

    def _finish(self, entry: _Entry[Item, Result], done: Completed[Result]) -> None:
        if entry.future.done():
            return
        if entry.finish is None:
            self._deliver(entry, done=done)
            return
        try:
            finished = entry.finish(done.result)
        except Exception as error:  # noqa: BLE001 - any error belongs to this caller
            self._deliver(entry, error=error)
        else:
            self._deliver(entry, done=Completed(finished, done.queue_s, done.run_s, done.batch_size, done.ran_until))
        finally:
            del entry, done  # see `submit`

    def _deliver(
        self, entry: _Entry[Item, Result], *, done: Completed[Any] | None = None, error: Exception | None = None
    ) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop is closed, so no caller waits
            self._loop.call_soon_threadsafe(partial(_settle, entry.future, done=done, error=error))

    def _count_waiting(self) -> int:
        with self._lock:
            return len(self._queue)

    def _remove(self, entry: _Entry[Item, Result]) -> None:
        """Remove an entry from the queue, and release its capacity."""
        self._queue.remove(entry)
        # Items that were admitted with an earlier one do not count: their request bounds them itself, and they would
        # take the capacity of other requests.
        if not entry.is_admitted:
            self._capacity.release(entry.caller)


def _check_length(batch: Sequence[object], results: Sequence[object]) -> None:
    if len(results) != len(batch):
        raise AssertionError(f"{len(results)} results for {len(batch)} items. This is a bug.")


def _closing() -> NotReady:
    return NotReady("The service is stopping. Retry on another replica.", retry_after_s=1.0)


def _settle(
    future: asyncio.Future[Completed[Any]], *, done: Completed[Any] | None = None, error: Exception | None = None
) -> None:
    """Settle the future of an entry, on the event loop. A cancelled caller needs no result."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif done is not None:
        future.set_result(done)
