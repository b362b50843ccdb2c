"""Gathering the coroutines of one request: all results, or an error after all others are cancelled."""

import asyncio

import pytest

from service.inference.scheduling.gathering import gather_or_cancel


async def test_results_come_in_the_order_of_the_coroutines():
    first_may_end = asyncio.Event()

    async def first():
        await first_may_end.wait()
        return 1

    async def second():
        first_may_end.set()
        return 2

    assert await gather_or_cancel([first(), second()]) == [1, 2]
    assert await gather_or_cancel([]) == []


async def test_only_so_many_coroutines_run_at_once():
    running, most = 0, 0

    async def count(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    assert await gather_or_cancel([count(number) for number in range(9)], at_once=2) == list(range(9))
    assert most == 2


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_after_an_error_or_a_cancellation_the_other_coroutines_are_cancelled_first(is_cancelled):
    waits, ended = asyncio.Event(), []

    async def wait():
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail():
        await waits.wait()
        if is_cancelled:
            await asyncio.Event().wait()
        raise ZeroDivisionError

    parts = asyncio.create_task(gather_or_cancel([wait(), fail(), wait()]))
    await waits.wait()
    if is_cancelled:
        parts.cancel()
    (error,) = await asyncio.gather(parts, return_exceptions=True)

    assert type(error) is (asyncio.CancelledError if is_cancelled else ZeroDivisionError)
    assert ended == ["cancelled", "cancelled"]
