"""A lane: a bounded queue and the threads that do one kind of work, what waits together in one call."""

import asyncio
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
class Done(Generic[Result]):
    """A result with where its time went."""

    result: Result
    queue_s: float
    run_s: float
    batch_size: int
    ran_until: float
    """`perf_counter` when the run ended; its finishing touches came after."""


@dataclass(slots=True, eq=False)  # an entry equals itself alone: items may be arrays, which have no single truth value
class _Entry(Generic[Item, Result]):
    item: Item
    finish: Callable[[Result], Any] | None
    # The event loop alone settles it; a worker only asks whether the caller has gone.
    future: asyncio.Future[Done[Any]]
    queued_at: float
    group: Hashable
    size: int
    is_admitted: bool
    caller: str


class DynamicBatcher(Generic[Item, Result]):
    """Runs what is waiting, grouped, in worker threads; adds no delay of its own.

    While calls run, items gather; the next batch is what has gathered of the oldest item's group, shared among the
    calls that could start now. Where several callers wait they take turns, and none may fill the queue. An idle lane
    runs a lone item at once. Workers take their work themselves, without a turn of the event loop in between, so that
    no processor waits for a busy loop. A failing batch fails its callers, and the lane goes on.

    Calls that run at the same time share `threads` computing threads: a call alone has all of them, of several each
    its part. While all are taken items wait, since two calls on one processor would only both end later.

    Args:
        lane: the name in metrics and messages.
        run: blocking; takes the items of one group and how many threads may compute, and answers as many results in
            their order.
        group: items of different groups never share a batch.
        size: how much of `max_batch_size` an item takes.
        max_batch_size: the most that runs together; a larger item runs alone.
        max_queue_size: items that may wait; further ones are refused. Items of begun work do not count.
        calls: batches that run at the same time.
        threads: computing threads that they share, at least one for each.
        finishers: worker threads beside those of the calls, for what callers have done with their results.
        initializer: run once in each worker thread.
    """

    def __init__(
        self,
        lane: str,
        run: Callable[[Sequence[Item], int], Sequence[Result]],
        *,
        group: Callable[[Item], Hashable],
        size: Callable[[Item], int],
        max_batch_size: int,
        max_queue_size: int,
        calls: int,
        threads: int,
        metrics: Metrics,
        finishers: int = 0,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self.calls = calls
        self._lane = lane
        self._run = run
        self._group = group
        self._size = size
        self._max_batch_size = max_batch_size
        self._initializer = initializer
        self._queue_wait_seconds = metrics.queue_wait_seconds.labels(lane)
        self._batch_size = metrics.batch_size.labels(lane)
        # Daemons: a process that fails before it closes the lane ends all the same.
        self._workers = [
            threading.Thread(target=self._work, name=f"edgesam-{lane}_{i}", daemon=True)
            for i in range(calls + finishers)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

        self._lock = threading.Lock()  # guards what follows
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._places = FairCapacity(max_queue_size, f"requests wait to {lane}")  # without begun work
        self._turns = FairScheduler()
        self._finishing: deque[Callable[[], None]] = deque()
        self._idle: list[threading.Condition] = []  # the last to fall idle is the first to work: its caches are warm
        self._free_calls = calls
        self._free_threads = max(calls, threads)
        self._is_closed = False
        metrics.queue_depth.labels(lane).set_function(self._count_waiting)

    def start(self) -> None:
        """Begin to take batches; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.start()

    @overload
    async def submit(self, item: Item, *, caller: str = "") -> Done[Result]: ...
    @overload
    async def submit(
        self, item: Item, finish: Callable[[Result], Finished], *, is_admitted: bool = False, caller: str = ""
    ) -> Done[Finished]: ...
    async def submit(
        self, item: Item, finish: Callable[[Result], Any] | None = None, *, is_admitted: bool = False, caller: str = ""
    ) -> Done[Any]:
        """Queue an item and wait for its result. A cancelled caller gives its place in the queue up.

        Args:
            item: what to run.
            finish: what else a worker does with the item's result while others run; `Done` then holds what it returns.
            is_admitted: the item belongs to work of which a part has been taken; it is not refused half-way.
            caller: whose turn it takes; "" where nobody is told apart, which then fill the queue together.

        Raises:
            Overloaded: the queue is full, or this caller's share of it; nothing was started.
            NotReady: the lane is closing.
        """
        future: asyncio.Future[Done[Any]] = asyncio.get_running_loop().create_future()
        group, size = self._group(item), self._size(item)
        entry = _Entry(item, finish, future, perf_counter(), group, size, is_admitted, caller)
        with self._lock:
            if self._is_closed:
                raise _closing()
            if not is_admitted:
                self._places.check(caller)
                self._places.take(caller)
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
            del entry, future  # an error holds this frame, and they the error: a circle with the item in it

    def check_room(self, caller: str) -> None:
        """What `submit` does first; a look without the lock, for those who want to know before they prepare an item.

        Raises:
            Overloaded: the queue is full, or this caller's share of it.
        """
        self._places.check(caller)

    async def aclose(self) -> None:
        """Answer whoever is still queued with NotReady, let running batches end, stop the threads."""
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
        called = threading.Condition(self._lock)
        while self._work_once(called):
            pass

    def _work_once(self, called: threading.Condition) -> bool:
        """Wait for work and do it; False when the lane is closed. Nothing of the work outlives the call."""
        with self._lock:
            while (work := self._take()) is None:
                if self._is_closed:
                    return False
                self._idle.append(called)
                called.wait()
            self._wake()
        work()
        del work  # see `submit`: the frames behind an error stay with it
        return True

    def _take(self) -> Callable[[], None] | None:
        """The next thing to do, if there is one; results come first, since somebody waits for no more than that."""
        if self._finishing:
            return self._finishing.popleft()
        if self._free_calls == 0 or self._free_threads == 0:
            return None
        # They leave by themselves, but only when the event loop comes to them.
        for entry in [entry for entry in self._queue if entry.future.done()]:
            self._remove(entry)
        if not self._queue:
            self._turns.forget()
            return None
        batch = self._next_batch()
        self._free_calls -= 1
        threads = max(1, self._free_threads // (1 + min(self._free_calls, len(self._queue))))
        self._free_threads -= threads
        return partial(self._run_batch, batch, threads)

    def _wake(self) -> None:
        """Call another worker if there is something for it; it calls the next."""
        can_start = self._queue and self._free_calls > 0 and self._free_threads > 0
        if self._idle and (self._finishing or can_start):
            self._idle.pop().notify()

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """The oldest item of the caller whose turn it is, and what of its group fits with it and no other call could
        start.
        """
        share = -(-sum(entry.size for entry in self._queue) // min(self._free_calls, self._free_threads))
        oldest: dict[str, _Entry[Item, Result]] = {}
        for entry in self._queue:
            oldest.setdefault(entry.caller, entry)
        first = oldest[self._turns.next(oldest)]
        self._remove(first)
        batch, room = [first], min(self._max_batch_size, share) - first.size
        for entry in list(self._queue) if room > 0 else ():
            if entry.group == first.group and entry.size <= room:
                self._remove(entry)
                batch.append(entry)
                room -= entry.size
        for entry in batch:
            self._turns.took(entry.caller, entry.size)
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
                done = Done(result, started - entry.queued_at, ended - started, size, ended)
                finishing.append(partial(self._finish, entry, done))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this batch; the lane goes on
            for entry in batch:
                self._deliver(entry, error=error)
        finally:
            with self._lock:
                self._free_calls += 1
                self._free_threads += threads
                self._finishing.extend(finishing)
            del batch, entry  # see `submit`

    def _finish(self, entry: _Entry[Item, Result], done: Done[Result]) -> None:
        if entry.future.done():
            return
        if entry.finish is None:
            self._deliver(entry, done=done)
            return
        try:
            finished = entry.finish(done.result)
        except Exception as error:  # noqa: BLE001 - it belongs to this caller
            self._deliver(entry, error=error)
        else:
            self._deliver(entry, done=Done(finished, done.queue_s, done.run_s, done.batch_size, done.ran_until))
        finally:
            del entry, done  # see `submit`

    def _deliver(
        self, entry: _Entry[Item, Result], *, done: Done[Any] | None = None, error: Exception | None = None
    ) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has been closed, so nobody waits
            self._loop.call_soon_threadsafe(partial(_settle, entry.future, done=done, error=error))

    def _count_waiting(self) -> int:
        with self._lock:
            return len(self._queue)

    def _remove(self, entry: _Entry[Item, Result]) -> None:
        """Take an entry out of the queue, and give its place back."""
        self._queue.remove(entry)
        if not entry.is_admitted:  # begun work is bounded by those who began it; its pieces would shut others out
            self._places.give_back(entry.caller)


def _check_length(batch: Sequence[object], results: Sequence[object]) -> None:
    if len(results) != len(batch):
        raise AssertionError(f"{len(results)} results for {len(batch)} items. This is a bug.")


def _closing() -> NotReady:
    return NotReady("The service is stopping. Retry on another replica.", retry_after_s=1.0)


def _settle(
    future: asyncio.Future[Done[Any]], *, done: Done[Any] | None = None, error: Exception | None = None
) -> None:
    """Runs on the event loop; a caller that has gone is told nothing."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif done is not None:
        future.set_result(done)
