"""Under a flood of refusals the log stays short, and says how much it leaves out."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from service.api.request_log import REFUSALS_PER_S, RequestLog
from service.metrics import Metrics


class Clock:
    """Shows what it was set to, seconds."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def write(clock, caplog):
    log, metrics = RequestLog(clock), Metrics(CollectorRegistry())
    caplog.set_level(logging.INFO, "service.request")

    def write(request_id, *, status=503, problem="overloaded"):
        state = {"request_id": request_id, "route": "/segment"} | ({"problem": problem} if problem else {})
        log.write({"method": "POST", "state": state}, status, 0.001, metrics.stages(None))

    return write


def test_the_first_refusals_of_a_second_have_a_line_each(write, caplog):
    for number in range(3 * REFUSALS_PER_S):
        write(str(number))

    assert [record.request_id for record in caplog.records] == [str(number) for number in range(REFUSALS_PER_S)]


def test_what_had_no_line_is_told_by_the_first_line_of_a_later_second(write, clock, caplog):
    for _ in range(REFUSALS_PER_S + 7):
        write("flood")
    clock.now += 1.0
    write("next")
    write("after")

    told = {record.request_id: getattr(record, "unlogged_refusals", 0) for record in caplog.records}
    assert told == {"flood": 0, "next": 7, "after": 0}


def test_a_flood_hides_no_other_request(write, caplog):
    for _ in range(REFUSALS_PER_S + 1):
        write("limited", status=429, problem="rate-limited")
    write("answered", status=200, problem="")
    write("unavailable", problem="cache-unavailable")
    write("failed", status=500, problem="")

    assert [record.request_id for record in caplog.records][-3:] == ["answered", "unavailable", "failed"]
