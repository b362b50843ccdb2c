"""Single flight in one process: simultaneous callers of one key share one computation."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from service.errors import Overloaded
from service.inference.scheduling.singleflight import SingleFlight
from service.telemetry.metrics import Metrics

TIMINGS = Metrics(CollectorRegistry()).timings()


class HeldComputation:
    """A computation that waits for `go` and returns the number of its starts. It records a cancellation."""

    def __init__(self, error=None):
        self.starts = 0
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self._error = error

    async def __call__(self):
        self.starts += 1
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self._error is not None:
            raise self._error
        return self.starts


async def callers(flight, compute, *, count, key="image"):
    """Return tasks that all wait for the flight of one key."""
    tasks = [asyncio.create_task(flight.run(key, compute, TIMINGS)) for _ in range(count)]
    await compute.started.wait()
    return tasks


async def test_callers_of_one_key_share_one_computation():
    compute = HeldComputation()
    tasks = await callers(SingleFlight(), compute, count=5)

    compute.go.set()

    assert await asyncio.gather(*tasks) == [1] * 5
    assert compute.starts == 1


async def test_a_request_that_joins_a_computation_has_a_wait_in_its_timings_and_the_first_has_none(metrics):
    flight, compute = SingleFlight(), HeldComputation()
    timings = [metrics.timings() for _ in range(2)]
    tasks = [asyncio.create_task(flight.run("image", compute, each)) for each in timings]
    await compute.started.wait()

    compute.go.set()
    await asyncio.gather(*tasks)

    assert [list(each.elapsed_ms()) for each in timings] == [[], ["wait"]]


async def test_keys_are_computed_at_the_same_time():
    flight, slow, fast = SingleFlight(), HeldComputation(), HeldComputation()
    (waits,) = await callers(flight, slow, count=1, key="slow")
    fast.go.set()

    assert await flight.run("fast", fast, TIMINGS) == 1

    assert not waits.done()
    slow.go.set()
    await waits


async def test_an_error_reaches_all_callers_that_wait():
    compute = HeldComputation(Overloaded("full"))
    tasks = await callers(SingleFlight(), compute, count=3)

    compute.go.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in errors] == [Overloaded] * 3
    assert compute.starts == 1


async def test_a_call_after_a_failure_starts_anew():
    flight, failing, working = SingleFlight(), HeldComputation(Overloaded("full")), HeldComputation()
    failing.go.set()
    working.go.set()

    with pytest.raises(Overloaded):
        await flight.run("image", failing, TIMINGS)

    assert await flight.run("image", working, TIMINGS) == 1


async def test_a_call_after_the_end_computes_again():
    flight, compute = SingleFlight(), HeldComputation()
    compute.go.set()

    assert await flight.run("image", compute, TIMINGS) == 1
    assert await flight.run("image", compute, TIMINGS) == 2


@pytest.mark.parametrize("gone", [0, 2], ids=["the one who started it", "one who joined"])
async def test_a_cancelled_caller_does_not_cancel_the_work_for_other_callers(gone):
    compute = HeldComputation()
    tasks = await callers(SingleFlight(), compute, count=3)

    tasks[gone].cancel()
    await asyncio.wait([tasks[gone]])
    compute.go.set()
    rest = await asyncio.gather(*(task for i, task in enumerate(tasks) if i != gone))

    assert tasks[gone].cancelled()
    assert rest == [1, 1]
    assert not compute.cancelled.is_set()


async def test_cancelling_the_last_caller_cancels_the_work():
    compute = HeldComputation()
    tasks = await callers(SingleFlight(), compute, count=2)

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert all(task.cancelled() for task in tasks)
    assert compute.cancelled.is_set()


async def test_a_caller_that_is_cancelled_at_once_leaves_no_flight():
    flight, left, compute = SingleFlight(), HeldComputation(), HeldComputation()
    task = asyncio.create_task(flight.run("image", left, TIMINGS))
    await asyncio.sleep(0)  # the caller waits, and its flight has not run yet

    task.cancel()
    await asyncio.wait([task])
    compute.go.set()

    assert task.cancelled()
    assert await flight.run("image", compute, TIMINGS) == 1


async def test_a_request_during_the_cleanup_of_cancelled_work_starts_work_of_its_own():
    flight, compute = SingleFlight(), HeldComputation()
    tidying, tidied, began = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def tidies_up():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            tidying.set()
            await tidied.wait()

    first = asyncio.create_task(flight.run("image", tidies_up, TIMINGS))
    await began.wait()
    first.cancel()
    await tidying.wait()

    compute.go.set()
    result = await flight.run("image", compute, TIMINGS)
    tidied.set()
    await asyncio.wait([first])

    assert result == 1
    assert first.cancelled()


async def test_the_end_of_cancelled_work_does_not_remove_the_flight_after_it():
    flight, second = SingleFlight(), HeldComputation()
    tidying, tidied, began = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def tidies_up():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            tidying.set()
            await tidied.wait()

    first = asyncio.create_task(flight.run("image", tidies_up, TIMINGS))
    await began.wait()
    first.cancel()
    await tidying.wait()
    (owner,) = await callers(flight, second, count=1)
    tidied.set()
    await asyncio.wait([first])

    joined = asyncio.create_task(flight.run("image", second, TIMINGS))
    await asyncio.sleep(0)  # it joins
    second.go.set()

    assert await asyncio.gather(owner, joined) == [1, 1]
    assert second.starts == 1


async def test_a_deadline_of_one_caller_is_an_error_of_that_caller_alone():
    flight, compute = SingleFlight(), HeldComputation()
    (patient,) = await callers(flight, compute, count=1)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flight.run("image", compute, TIMINGS)
    compute.go.set()

    assert await patient == 1


async def test_settling_waits_for_the_flight_whatever_its_end():
    flights, go, ends = SingleFlight(), asyncio.Event(), []

    async def fail():
        await go.wait()
        ends.append("computed")
        raise RuntimeError("of the work")

    async def settle():
        await flights.settle("key".__eq__)
        ends.append("settled")

    working = asyncio.create_task(flights.run("key", fail, TIMINGS))
    await asyncio.sleep(0)
    settling = asyncio.create_task(settle())
    await asyncio.sleep(0)
    go.set()
    await settling

    with pytest.raises(RuntimeError, match="of the work"):
        await working
    assert ends == ["computed", "settled"]
    await flights.settle("key".__eq__)  # no computation is running: no wait
