"""The circuit breaker, with a clock that the tests set."""

import pytest

from service.cache.redis.breaker import CircuitBreaker
from service.errors import CacheUnavailable


class Clock:
    """A clock that the test advances, in seconds."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def gauge(metrics):
    return metrics.registry.get_sample_value("edgesam_redis_breaker_open")


def fail(breaker, times):
    for _ in range(times):
        breaker.admit()
        breaker.failed()


def test_it_starts_closed(metrics):
    breaker = CircuitBreaker(metrics=metrics)

    breaker.check()
    breaker.admit()

    assert not breaker.is_open
    assert gauge(metrics) == 0


def test_the_last_of_the_failures_in_a_row_opens_it(metrics):
    breaker = CircuitBreaker(failures=5, open_s=5.0, metrics=metrics, clock=Clock())

    fail(breaker, 4)
    was_open = breaker.is_open
    fail(breaker, 1)

    assert not was_open
    assert breaker.is_open
    assert gauge(metrics) == 1


def test_an_answer_in_between_starts_the_count_anew(metrics):
    breaker = CircuitBreaker(failures=5, metrics=metrics, clock=Clock())

    fail(breaker, 4)
    breaker.succeeded()
    fail(breaker, 4)

    assert not breaker.is_open


def test_an_open_breaker_refuses_and_states_the_time_to_the_next_probe(metrics):
    clock = Clock()
    breaker = CircuitBreaker(failures=1, open_s=5.0, metrics=metrics, clock=clock)
    fail(breaker, 1)
    clock.now_s += 2.0

    with pytest.raises(CacheUnavailable) as refusal:
        breaker.admit()

    assert refusal.value.retry_after_s == pytest.approx(3.0)


def test_after_the_open_time_one_probe_is_admitted_and_no_other_call(metrics):
    clock = Clock()
    breaker = CircuitBreaker(failures=1, open_s=5.0, metrics=metrics, clock=clock)
    fail(breaker, 1)
    clock.now_s += 5.0

    breaker.check()
    breaker.admit()

    with pytest.raises(CacheUnavailable):
        breaker.admit()
    with pytest.raises(CacheUnavailable):
        breaker.check()
    assert gauge(metrics) == 1


def test_an_answered_probe_closes_the_breaker(metrics):
    clock = Clock()
    breaker = CircuitBreaker(failures=3, open_s=5.0, metrics=metrics, clock=clock)
    fail(breaker, 3)
    clock.now_s += 5.0

    breaker.admit()
    breaker.succeeded()

    assert not breaker.is_open
    assert gauge(metrics) == 0
    fail(breaker, 2)
    assert not breaker.is_open


def test_a_failed_probe_keeps_the_breaker_open(metrics):
    clock = Clock()
    breaker = CircuitBreaker(failures=3, open_s=5.0, metrics=metrics, clock=clock)
    fail(breaker, 3)
    clock.now_s += 5.0

    breaker.admit()
    clock.now_s += 0.1
    breaker.failed()
    clock.now_s += 4.9

    with pytest.raises(CacheUnavailable):
        breaker.admit()
    clock.now_s += 0.1
    breaker.admit()


def test_a_probe_that_never_reports_blocks_nothing(metrics):
    clock = Clock()
    breaker = CircuitBreaker(failures=1, open_s=5.0, metrics=metrics, clock=clock)
    fail(breaker, 1)
    clock.now_s += 5.0
    breaker.admit()

    clock.now_s += 5.0

    breaker.admit()


def test_changes_of_state_are_logged_once(metrics, caplog):
    clock = Clock()
    breaker = CircuitBreaker(failures=2, open_s=5.0, metrics=metrics, clock=clock)

    with caplog.at_level("INFO", logger="service.cache.redis.breaker"):
        fail(breaker, 2)
        breaker.failed()
        clock.now_s += 5.0
        breaker.admit()
        breaker.succeeded()
        breaker.succeeded()

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
