"""The approximation compared with exact results."""

import math

import pytest
from tools.capacity.queueing import waiting_s


def test_one_server_with_exponential_service_is_the_textbook_queue() -> None:
    rate, service = 5.0, 0.1
    load = rate * service
    expected = load * service / (1 - load)
    assert waiting_s(rate_per_s=rate, service_s=service, servers=1, variation=1.0) == pytest.approx(expected)


def test_the_wait_is_half_as_long_with_a_constant_service_time() -> None:
    exponential, constant = (
        waiting_s(rate_per_s=12.0, service_s=0.1, servers=2, variation=variation) for variation in (1.0, 0.0)
    )
    assert constant == pytest.approx(exponential / 2)


def test_two_servers_wait_less_than_one_of_twice_the_load() -> None:
    one = waiting_s(rate_per_s=6.0, service_s=0.1, servers=1, variation=1.0)
    two = waiting_s(rate_per_s=12.0, service_s=0.1, servers=2, variation=1.0)
    assert 0.0 < two < one


def test_the_wait_is_infinite_under_overload() -> None:
    assert math.isinf(waiting_s(rate_per_s=20.0, service_s=0.1, servers=2, variation=0.0))
