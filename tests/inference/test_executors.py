"""Threads for blocking work: first come, first served for one caller, turns between several."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from support.redis_server import eventually

from service.inference.scheduling.executors import Workers
from service.telemetry.metrics import Metrics

WAIT_S = 60.0  # what a busy machine may take; nothing passes because of it


class HeldThread:
    """A single thread that stands still until it is let go, so that what comes meanwhile has to wait."""

    def __init__(self, workers, timings):
        self._workers = workers
        self._timings = timings
        self._started = threading.Event()
        self._go = threading.Event()
        self.order = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._workers.run(self._timings, self._stand_still))
        assert await asyncio.to_thread(self._started.wait, WAIT_S)
        return self

    async def __aexit__(self, *_):
        self.let_go()
        await self._task

    def let_go(self):
        self._go.set()

    async def send(self, name, caller=""):
        """One more piece of work that waits; it notes its name when it runs."""
        task = asyncio.create_task(self._workers.run(self._timings, self.order.append, name, caller=caller))
        await asyncio.sleep(0)  # it has been queued
        return task

    def _stand_still(self):
        self._started.set()
        assert self._go.wait(WAIT_S)


@pytest.fixture
def workers():
    made = Workers("test", 1)
    yield made
    made.close()


@pytest.fixture
def held(workers, metrics):
    return HeldThread(workers, metrics.timings())


async def test_a_caller_with_much_to_do_does_not_keep_another_waiting(held):
    async with held:
        tasks = [await held.send(f"a{number}", "a") for number in range(6)]
        tasks += [await held.send(f"b{number}", "b") for number in range(2)]
        held.let_go()
        await asyncio.gather(*tasks)

    assert held.order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]


async def test_where_nobody_is_told_apart_the_first_is_served_first(held):
    async with held:
        tasks = [await held.send(number) for number in range(20)]
        held.let_go()
        await asyncio.gather(*tasks)

    assert held.order == list(range(20))


async def test_a_caller_that_has_gone_gives_its_place_up_and_holds_nothing(held):
    class Picture:
        pass

    picture = Picture()
    gone = weakref.ref(picture)
    async with held:
        leaving = await held.send(picture, "a")
        tasks = [await held.send("a1", "a"), await held.send("b0", "b")]
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        del picture, leaving
        await asyncio.sleep(0)  # the loop has let go of the task
        gc.collect()
        assert gone() is None
        held.let_go()
        await asyncio.gather(*tasks)

    assert held.order == ["a1", "b0"]


async def test_work_that_fails_tells_its_caller_alone_and_the_next_goes_on(workers, metrics):
    def fail():
        raise RuntimeError("of this caller")

    failed, done = await asyncio.gather(
        workers.run(metrics.timings(), fail, caller="a"),
        workers.run(metrics.timings(), str, 7, caller="b"),
        return_exceptions=True,
    )

    assert isinstance(failed, RuntimeError)
    assert done == "7"


async def test_what_waited_for_a_thread_counts_as_queue(workers, metrics):
    timings = metrics.timings()

    await workers.run(timings, int, caller="a")

    assert set(timings.elapsed_ms()) == {"queue"}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.sets(st.integers(0, 39)))
def test_all_that_stay_are_served_once_and_those_who_wait_get_as_much_as_each_other(callers, leaving):
    metrics = Metrics(CollectorRegistry())
    workers = Workers("test", 1)

    async def serve():
        async with HeldThread(workers, metrics.timings()) as held:
            tasks = [await held.send((number, caller), caller) for number, caller in enumerate(callers)]
            for number in leaving & set(range(len(tasks))):
                tasks[number].cancel()
            await asyncio.gather(*(tasks[number] for number in leaving if number < len(tasks)), return_exceptions=True)
            held.let_go()
            await asyncio.gather(*tasks, return_exceptions=True)
        return held.order

    order = asyncio.run(serve())
    workers.close()

    staying = [(number, caller) for number, caller in enumerate(callers) if number not in leaving]
    assert sorted(order) == staying
    waiting, had = Counter(caller for _, caller in staying), Counter()
    for number, caller in order:
        assert had[caller] <= min(had[one] for one in waiting)
        had[caller] += 1
        waiting[caller] -= 1
        waiting += Counter()  # without those who have nothing left
        served = [one for one, _ in order if callers[one] == caller]
        assert served == sorted(served)
        assert number in served


def test_closing_waits_for_what_was_queued():
    workers, metrics = Workers("test", 2), Metrics(CollectorRegistry())
    done = []

    async def queue_some():
        tasks = [asyncio.create_task(workers.run(metrics.timings(), done.append, number)) for number in range(8)]
        await asyncio.sleep(0)
        await asyncio.to_thread(workers.close)
        await asyncio.gather(*tasks)

    asyncio.run(queue_some())

    assert sorted(done) == list(range(8))


def test_workers_that_are_closed_take_nothing_more(metrics):
    workers = Workers("test", 1)
    workers.close()

    with pytest.raises(RuntimeError, match="shutdown"):
        asyncio.run(workers.run(metrics.timings(), int))


async def test_other_work_in_the_same_threads_goes_on_beside_it(workers, metrics):
    assert isinstance(workers.executor, ThreadPoolExecutor)
    loop = asyncio.get_running_loop()

    results = await asyncio.gather(
        workers.run(metrics.timings(), str, 1, caller="a"),
        loop.run_in_executor(workers.executor, str, 2),
        workers.run(metrics.timings(), str, 3, caller="b"),
    )

    assert results == ["1", "2", "3"]


async def test_work_that_fails_leaves_nothing_of_its_arguments_behind(workers, metrics, without_collector):
    class Picture:
        pass

    async def refuse() -> weakref.ref[Picture]:
        picture = Picture()
        with pytest.raises(ZeroDivisionError):
            await workers.run(metrics.timings(), lambda _: 1 / 0, picture, caller="web")
        return weakref.ref(picture)

    left = await refuse()

    await eventually(lambda: left() is None)
