"""During a flood of refusals the access log stays short and states the number of omitted lines."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from service.api.middleware.access_log import (
    MOST_DETAIL_CHARACTERS,
    MOST_DETAILS_PER_S,
    MOST_REFUSALS_PER_S,
    RequestLog,
)
from service.telemetry.metrics import Metrics


class Clock:
    """A clock that returns the value of `now`, in seconds."""

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

    def write(request_id, *, key="web", status=503, problem="overloaded"):
        state = {"request_id": request_id, "route": "/segment", "key": key} | ({"problem": problem} if problem else {})
        return log.write({"method": "POST", "state": state}, status, 0.001, metrics.timings(None))

    return write


@pytest.fixture
def lines(caplog):
    return lambda: [record.request_id for record in caplog.records]


def test_of_equal_refusals_in_a_second_only_the_first_is_logged(write, clock, lines):
    for second in range(3):
        clock.now = 100.0 + second
        for number in range(5):
            has_line = write(f"{second}.{number}")
            assert has_line == (number == 0)

    assert lines() == ["0.0", "1.0", "2.0"]


def test_the_next_line_of_a_later_second_has_the_number_of_omitted_lines(write, clock, caplog):
    for _ in range(8):
        write("flood")
    clock.now += 1.0
    write("next")
    write("after", status=200, problem="")

    told = {record.request_id: getattr(record, "unlogged_refusals", 0) for record in caplog.records}
    assert told == {"flood": 0, "next": 7, "after": 0}


def test_a_flood_hides_neither_another_key_nor_another_problem(write, lines):
    for _ in range(100):
        write("flood")
    write("limited", status=429, problem="rate-limited")
    write("another", key="mobile")

    assert lines() == ["flood", "limited", "another"]


def test_refusals_of_many_keys_are_limited_to_some_lines_per_second(write, lines):
    for number in range(3 * MOST_REFUSALS_PER_S):
        write(str(number), key=f"key {number}")

    assert len(lines()) == MOST_REFUSALS_PER_S


def test_a_flood_hides_no_other_kind_of_request(write, lines):
    for _ in range(100):
        write("flood")
    write("answered", status=200, problem="")
    write("unavailable", problem="cache-unavailable")
    write("failed", status=500, problem="")

    assert lines() == ["flood", "answered", "unavailable", "failed"]


@pytest.fixture
def write_detail(clock, caplog):
    log, metrics = RequestLog(clock, detailed_routes={"/tool"}), Metrics(CollectorRegistry())
    caplog.set_level(logging.INFO, "service.request")

    def write(detail, route="/tool"):
        state = {"request_id": "1", "route": route, "problem": "invalid-request", "detail": detail}
        assert log.write({"method": "POST", "state": state}, 422, 0.001, metrics.timings(None))
        return getattr(caplog.records[-1], "detail", None)

    return write


def test_only_lines_of_the_named_routes_have_the_detail(write_detail):
    assert write_detail("no such label") == "no such label"
    assert write_detail("no such image", route="/segment") is None


def test_a_detail_is_written_once_in_a_second_and_is_short(write_detail, clock):
    assert [write_detail("the same") for _ in range(3)] == ["the same", None, None]
    clock.now += 1.0
    assert write_detail("the same") == "the same"
    assert len(write_detail("x" * 10_000)) == MOST_DETAIL_CHARACTERS


def test_a_flood_of_details_is_limited(write_detail):
    written = [write_detail(f"detail {number}") for number in range(100)]

    assert len([detail for detail in written if detail is not None]) == MOST_DETAILS_PER_S
