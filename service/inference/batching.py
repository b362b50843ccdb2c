"""A lane: a bounded queue, a batcher and the threads that do one kind of work."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from service.errors import NotReady, Overloaded
from service.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A result with where its time went."""

    result: Result
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(slots=True, eq=False)  # an entry equals itself alone: items may be arrays, which have no single truth value
class _Entry(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Done[Result]]
    queued_at: float
    group: Hashable
    size: int


class DynamicBatcher(Generic[Item, Result]):
    """Runs what is waiting, grouped, in worker threads; adds no delay of its own.

    While a batch runs, items gather; the next batch is whatever of the oldest item's group has gathered. An idle
    lane runs a lone item at once. A failing batch fails its callers, and the lane goes on.

    Args:
        lane: the name in metrics and messages.
        run: blocking; takes the items of one group and answers as many results in their order.
        group: items of different groups never share a batch.
        size: how much of `max_batch_size` an item takes.
        max_batch_size: the most that runs together; a larger item runs alone.
        max_queue_size: items that may wait; further ones are refused.
        workers: batches that run at the same time.
        initializer: run once in each worker thread.
    """

    def __init__(
        self,
        lane: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        group: Callable[[Item], Hashable],
        size: Callable[[Item], int],
        max_batch_size: int,
        max_queue_size: int,
        workers: int,
        metrics: Metrics,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self._lane = lane
        self._run = run
        self._group = group
        self._size = size
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._metrics = metrics
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._wake = asyncio.Event()
        self._is_closed = False
        self._workers = workers
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"edgesam-{lane}", initializer=initializer)
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_depth.labels(lane).set_function(self._count_waiting)

    def start(self) -> None:
        """Begin to take batches; needs a running event loop."""
        self._tasks = [asyncio.create_task(self._loop(), name=f"{self._lane}-{i}") for i in range(self._workers)]

    async def submit(self, item: Item) -> Done[Result]:
        """Queue an item and wait for its result. A cancelled caller gives its place in the queue up.

        Raises:
            Overloaded: the queue is full; nothing was started.
            NotReady: the lane is closing.
        """
        if self._is_closed:
            raise NotReady("The service is stopping. Retry on another replica.", retry_after_s=1.0)
        self._drop_abandoned()
        if len(self._queue) >= self._max_queue_size:
            raise Overloaded(
                f"{len(self._queue)} requests wait to {self._lane}, the most this process holds. Retry shortly.",
                retry_after_s=1.0,
                extra={"limit": self._max_queue_size},
            )
        future: asyncio.Future[Done[Result]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Entry(item, future, perf_counter(), self._group(item), self._size(item)))
        self._wake.set()
        return await future

    async def aclose(self) -> None:
        """Answer whoever is still queued with NotReady, let running batches end, stop the threads."""
        self._is_closed = True
        waiting, self._queue = list(self._queue), deque()
        _settle(waiting, error=NotReady("The service is stopping. Retry on another replica.", retry_after_s=1.0))
        self._wake.set()
        await asyncio.gather(*self._tasks)
        self._executor.shutdown()

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := await self._next_batch():
            started = perf_counter()
            for entry in batch:
                self._metrics.queue_wait_seconds.labels(self._lane).observe(started - entry.queued_at)
            size = sum(entry.size for entry in batch)
            self._metrics.batch_size.labels(self._lane).observe(size)
            try:
                results = await loop.run_in_executor(self._executor, self._run, [entry.item for entry in batch])
                _check_length(batch, results)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this batch; the lane goes on
                _settle(batch, error=error)
                continue
            run_s = perf_counter() - started
            for entry, result in zip(batch, results, strict=True):
                if not entry.future.done():
                    entry.future.set_result(Done(result, started - entry.queued_at, run_s, size))

    async def _next_batch(self) -> list[_Entry[Item, Result]]:
        """The oldest waiting item and those of its group that fit with it; empty when the lane is closed."""
        while True:
            self._drop_abandoned()
            if self._queue:
                break
            if self._is_closed:
                return []
            self._wake.clear()
            await self._wake.wait()
        first = self._queue.popleft()
        batch, room = [first], self._max_batch_size - first.size
        for entry in list(self._queue):
            if room <= 0:
                break
            if entry.group == first.group and entry.size <= room and not entry.future.done():
                self._queue.remove(entry)
                batch.append(entry)
                room -= entry.size
        return batch

    def _count_waiting(self) -> int:
        return sum(not entry.future.done() for entry in list(self._queue))

    def _drop_abandoned(self) -> None:
        """Callers that have gone hold no place."""
        if any(entry.future.done() for entry in self._queue):
            self._queue = deque(entry for entry in self._queue if not entry.future.done())


def _check_length(batch: Sequence[object], results: Sequence[object]) -> None:
    if len(results) != len(batch):
        raise AssertionError(f"{len(results)} results for {len(batch)} items. This is a bug.")


def _settle(entries: Sequence[_Entry[Item, Result]], *, error: Exception) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
