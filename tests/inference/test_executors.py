"""Threads for blocking work: first come, first served. Cancelled or failed work is not kept in memory."""

import asyncio
import gc
import os
import sys
import threading
import weakref

import pytest
from prometheus_client import CollectorRegistry
from support.redis_server import eventually

from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.thread_priority import LOW_PRIORITY_NICE
from service.telemetry.metrics import Metrics

WAIT_S = 60.0  # limit for a busy machine; a test that passes does not depend on it


class Image:
    """An object that supports weak references."""


class HeldThread:
    """The only thread of an executor, blocked until `release`, so that work submitted meanwhile has to wait."""

    def __init__(self, executor, timings):
        self._executor = executor
        self._timings = timings
        self._started = threading.Event()
        self._released = threading.Event()
        self.order = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._executor.run(self._timings, self._hold))
        assert await asyncio.to_thread(self._started.wait, WAIT_S)
        return self

    async def __aexit__(self, *_):
        self.release()
        await self._task

    def release(self):
        self._released.set()

    async def submit(self, name):
        """Submit work that waits. It records its name when it runs."""
        task = asyncio.create_task(self._executor.run(self._timings, self.order.append, name))
        await asyncio.sleep(0)  # it is in the queue now
        return task

    def _hold(self):
        self._started.set()
        assert self._released.wait(WAIT_S)


@pytest.fixture
def executor():
    made = TimedExecutor("test", 1)
    yield made
    made.close()


@pytest.fixture
def held(executor, metrics):
    return HeldThread(executor, metrics.timings())


async def test_work_runs_in_the_order_in_which_it_was_submitted(held):
    async with held:
        tasks = [await held.submit(number) for number in range(20)]
        held.release()
        await asyncio.gather(*tasks)

    assert held.order == list(range(20))


async def test_a_cancelled_caller_s_work_does_not_run_and_its_arguments_are_dropped_at_once(held):
    image = Image()
    dropped = weakref.ref(image)
    async with held:
        cancelled = await held.submit(image)
        stays = await held.submit("stays")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        del image, cancelled
        await asyncio.sleep(0)  # the event loop drops the task
        gc.collect()
        assert dropped() is None
        held.release()
        await stays

    assert held.order == ["stays"]


async def test_an_error_reaches_its_caller_alone_and_the_next_work_runs(executor, metrics):
    def fail():
        raise RuntimeError("of this caller")

    failed, done = await asyncio.gather(
        executor.run(metrics.timings(), fail), executor.run(metrics.timings(), str, 7), return_exceptions=True
    )

    assert isinstance(failed, RuntimeError)
    assert done == "7"


async def test_the_wait_for_a_thread_is_recorded_as_queue(executor, metrics):
    timings = metrics.timings()

    await executor.run(timings, int)

    assert set(timings.elapsed_ms()) == {"queue"}


def test_closing_waits_for_queued_work():
    executor, metrics = TimedExecutor("test", 2), Metrics(CollectorRegistry())
    done = []

    async def queue_some():
        tasks = [asyncio.create_task(executor.run(metrics.timings(), done.append, number)) for number in range(8)]
        await asyncio.sleep(0)
        await asyncio.to_thread(executor.close)
        await asyncio.gather(*tasks)

    asyncio.run(queue_some())

    assert sorted(done) == list(range(8))


def test_a_closed_executor_refuses_work(metrics):
    executor = TimedExecutor("test", 1)
    executor.close()

    with pytest.raises(RuntimeError, match="shutdown"):
        asyncio.run(executor.run(metrics.timings(), int))


async def test_the_arguments_of_failed_work_are_freed(executor, metrics, without_collector):
    async def fail() -> weakref.ref[Image]:
        image = Image()
        with pytest.raises(ZeroDivisionError):
            await executor.run(metrics.timings(), lambda _: 1 / 0, image)
        return weakref.ref(image)

    left = await fail()

    await eventually(lambda: left() is None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep one nice value for the whole process")
async def test_low_priority_applies_only_to_the_threads_of_the_executor(metrics):
    def nice():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    executor = TimedExecutor("test", 1, low_priority=True)
    before = nice()
    try:
        low = await executor.run(metrics.timings(), nice)
    finally:
        executor.close()

    assert low == max(before, LOW_PRIORITY_NICE)
    assert nice() == before
