"""The bounds of a process beside its batchers: permits for requests, and work after the answers."""

import asyncio
import logging

import pytest

from service.errors import Overloaded, RateLimited
from service.inference.scheduling.admission import AdmissionController, OnePerCaller
from service.inference.scheduling.background import BackgroundWork


def test_a_permit_more_than_there_are_is_refused_at_once():
    admission = AdmissionController(2, "uploads")

    with admission.permit(), admission.permit():  # noqa: SIM117 - the third is what is tested
        with pytest.raises(Overloaded, match="2 uploads") as refusal:
            with admission.permit():
                pass

    assert refusal.value.retry_after_s is not None


def test_a_permit_is_released_also_after_an_error():
    admission = AdmissionController(1, "uploads")

    with pytest.raises(ZeroDivisionError), admission.permit():
        _ = 1 / 0

    with admission.permit():
        pass


def test_a_refusal_takes_no_permit():
    admission = AdmissionController(1, "uploads")

    with admission.permit():
        for _ in range(3):
            with pytest.raises(Overloaded), admission.permit():
                pass

    with admission.permit():
        pass


def test_a_request_that_the_queue_would_refuse_is_refused_at_admission():
    full = {"greedy"}

    def check(caller):
        if caller in full:
            raise Overloaded("The queue is full.", retry_after_s=1.0)

    admission = AdmissionController(1, "clicks", check=check)

    with pytest.raises(Overloaded, match="queue"), admission.permit("greedy"):
        pass
    with admission.permit("modest"):
        pass


def test_a_key_holds_one_permit_at_a_time_and_requests_without_a_key_share_all():
    permits = OnePerCaller(2, "everything requests", "/segment/everything")

    with permits.permit("one"):
        with pytest.raises(RateLimited, match="/segment/everything") as refusal, permits.permit("one"):
            pass
        with permits.permit("two"), pytest.raises(Overloaded), permits.permit("three"):
            pass
    with permits.permit(), permits.permit(), pytest.raises(Overloaded), permits.permit():
        pass
    with permits.permit("one"), permits.permit("three"):
        pass

    assert refusal.value.retry_after_s is not None


async def test_background_work_beyond_the_bound_is_dropped(metrics):
    background, go, done = BackgroundWork(2, metrics), asyncio.Event(), []

    async def work(number):
        await go.wait()
        done.append(number)

    started = [background.start(work(number)) for number in range(3)]
    go.set()
    await background.aclose(60)

    assert started == [True, True, False]
    assert done == [0, 1]
    assert metrics.registry.get_sample_value("edgesam_rejected_total", {"reason": "background"}) == 1


async def test_ended_background_work_frees_capacity(metrics):
    background = BackgroundWork(1, metrics)
    ended = asyncio.Event()

    async def work():
        ended.set()

    assert background.start(work())
    await ended.wait()
    await asyncio.sleep(0)  # the end of the task is recorded

    assert background.start(work())
    await background.aclose(60)


async def test_one_caller_does_not_take_all_background_capacity(metrics):
    background, go, done = BackgroundWork(8, metrics), asyncio.Event(), []

    async def work(name):
        await go.wait()
        done.append(name)

    started = [background.start(work("a"), "a") for _ in range(8)]
    other = background.start(work("b"), "b")
    go.set()
    await background.aclose(60)

    assert started == [True] * 6 + [False] * 2
    assert other
    assert sorted(done) == ["a"] * 6 + ["b"]
    assert background.start(work("a"), "a")  # completed work does not count
    await background.aclose(60)


async def test_failed_background_work_is_logged_and_frees_capacity(caplog, metrics):
    background = BackgroundWork(1, metrics)

    async def fail():
        raise RuntimeError("no answer depends on this")

    background.start(fail())
    with caplog.at_level(logging.ERROR):
        await background.aclose(60)
        await asyncio.sleep(0)

    assert "background work failed" in caplog.text
    assert "no answer depends on this" in caplog.text


async def test_closing_cancels_background_work_that_does_not_end(metrics):
    background, started, cancelled = BackgroundWork(1, metrics), asyncio.Event(), asyncio.Event()

    async def never_ends():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    background.start(never_ends())
    await started.wait()
    await background.aclose(0)

    assert cancelled.is_set()
