"""The rate limit of a key: in one replica, shared through a real Redis, and without Redis."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.redis_server import RedisServer, eventually

from service.api.access.rate_limit import RateLimit, RateLimiter, TokenBucket
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.rate_buckets import RateBuckets
from service.errors import RateLimited

SLOW = RateLimit(per_s=0.001, burst=10)  # no token comes back while a test runs


@contextlib.asynccontextmanager
async def replicas(url, metrics, allowed, count=2):
    """Rate limiters of one key in several replicas."""
    client = connect(url, connect_timeout_s=10.0, read_timeout_s=10.0)
    shared = RateBuckets(client, CircuitBreaker(metrics=metrics))
    rate_limiters = [RateLimiter(allowed, "key", shared, settle_every_s=0.001) for _ in range(count)]
    try:
        yield rate_limiters
    finally:
        for rate_limiter in rate_limiters:
            await rate_limiter.aclose()
        await client.aclose()


def take(rate_limiter, most=1000):
    """Return the number of requests that are admitted before the first refused one."""
    for count in range(most):
        try:
            with rate_limiter.permit():
                pass
        except RateLimited:
            return count
    return most


def settled(*rate_limiters):
    return eventually(lambda: all(one._settling is None and one._unsettled == 0 for one in rate_limiters), timeout_s=60)


@given(st.floats(0.1, 1000), st.integers(1, 50), st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_interval_admits_more_than_the_burst_and_the_refilled_tokens(per_s, burst, pauses):
    now = 0.0
    bucket = TokenBucket(per_s, burst, lambda: now)
    taken_at = []

    for pause in pauses:
        now += pause
        if bucket.wait_s() == 0.0:
            bucket.take()
            taken_at.append(now)

    for first, start in enumerate(taken_at):
        for last, end in enumerate(taken_at[first:], 1):
            assert last <= burst + (end - start) * per_s * (1 + 1e-6) + 1e-6


@given(st.floats(0.1, 1000), st.integers(1, 50), st.integers(0, 49))
def test_a_token_is_free_exactly_after_the_retry_time_of_a_refusal(per_s, burst, left):
    now = 0.0
    bucket = TokenBucket(per_s, burst, lambda: now)
    for _ in range(burst - min(left, burst - 1)):
        bucket.take()
    while bucket.wait_s() == 0.0:
        bucket.take()

    wait_s = bucket.wait_s()

    now = wait_s * (1 - 1e-6)
    assert bucket.wait_s() > 0.0
    now = wait_s * (1 + 1e-9)
    assert bucket.wait_s() == 0.0


async def test_without_redis_a_replica_enforces_the_rate_by_itself():
    alone = RateLimiter(SLOW, "key", None)

    assert take(alone) == 10
    with pytest.raises(RateLimited) as refusal, alone.permit():
        pass
    assert 900 < refusal.value.retry_after_s <= 1000
    assert refusal.value.extra == {"limit": 0.001}


async def test_requests_in_progress_are_limited():
    rate_limiter = RateLimiter(RateLimit(at_once=2), "key", None)

    with rate_limiter.permit(), rate_limiter.permit(), pytest.raises(RateLimited) as refusal, rate_limiter.permit():
        pass
    with rate_limiter.permit():
        pass

    assert refusal.value.retry_after_s == 1.0


async def test_a_refusal_takes_no_token():
    rate_limiter = RateLimiter(RateLimit(per_s=0.001, burst=3, at_once=1), "key", None)

    with rate_limiter.permit():
        assert take(rate_limiter) == 0
    with rate_limiter.permit():
        pass

    assert take(rate_limiter) == 1


async def test_requests_in_progress_stay_counted_when_the_limits_change():
    rate_limiter = RateLimiter(RateLimit(at_once=2), "key", None)

    with rate_limiter.permit(), rate_limiter.permit():
        rate_limiter.change(RateLimit(at_once=3))
        with rate_limiter.permit(), pytest.raises(RateLimited), rate_limiter.permit():
            pass
        rate_limiter.change(RateLimit(at_once=1))
        assert take(rate_limiter) == 0

    with rate_limiter.permit():
        assert take(rate_limiter) == 0


@pytest.mark.parametrize(
    ("taken", "after", "left"),
    [
        (10, RateLimit(per_s=0.001, burst=10, at_once=5), 0),
        (10, RateLimit(per_s=0.001, burst=4), 0),
        (10, RateLimit(per_s=0.001, burst=13), 3),
        (10, RateLimit(per_s=0.0001, burst=10), 0),
        (10, RateLimit(per_s=0.002, burst=13), 3),
        (3, RateLimit(per_s=0.001, burst=4), 1),
        (3, RateLimit(per_s=0.002, burst=10), 7),
    ],
)
async def test_taken_tokens_stay_taken_when_the_limits_change(taken, after, left):
    rate_limiter = RateLimiter(SLOW, "key", None)
    assert take(rate_limiter, taken) == taken

    rate_limiter.change(after)

    assert take(rate_limiter) == left


async def test_a_smaller_bucket_is_at_most_empty():
    rate_limiter = RateLimiter(SLOW, "key", None)
    take(rate_limiter)

    rate_limiter.change(RateLimit(per_s=0.001, burst=2))

    with pytest.raises(RateLimited) as refusal, rate_limiter.permit():
        pass
    assert 900 < refusal.value.retry_after_s <= 1000  # one missing token, not nine


async def test_a_rate_can_be_removed_and_added_again():
    rate_limiter = RateLimiter(SLOW, "key", None)
    take(rate_limiter)

    rate_limiter.change(RateLimit(at_once=1))
    assert take(rate_limiter, 50) == 50
    rate_limiter.change(SLOW)

    assert take(rate_limiter) == 10


async def test_uncharged_tokens_are_charged_by_one_task_after_a_change(redis_server, metrics):
    redis_server.ask("FLUSHALL")
    async with replicas(redis_server.url, metrics, SLOW) as (first, second):
        assert take(first, 9) == 9
        first.change(RateLimit(per_s=0.001, burst=20))
        assert take(first, 1) == 1
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "settle"]
        await settled(first)

        assert len(tasks) == 1
        assert take(second, 1) == 1
        await settled(second)
        assert take(second) == 0


async def test_closing_ends_the_charging_task_also_after_a_change(redis_server, metrics):
    redis_server.ask("FLUSHALL")
    async with replicas(redis_server.url, metrics, SLOW) as (first, _):
        redis_server.pause()
        try:
            take(first, 1)
            first.change(RateLimit(at_once=1))
            first.change(SLOW)
            take(first, 1)
            await first.aclose()

            assert [task for task in asyncio.all_tasks() if task.get_name() == "settle"] == []
        finally:
            redis_server.resume()


async def test_tokens_taken_by_one_replica_are_missing_on_another(redis_server, metrics):
    redis_server.ask("FLUSHALL")
    async with replicas(redis_server.url, metrics, SLOW) as (first, second):
        assert take(first, 9) == 9
        await settled(first)

        # The last token: the first replica has charged nine, and this one has not asked Redis yet.
        assert take(second, 1) == 1
        await settled(second)

        assert take(second) == 0
        assert take(first) == 1  # it has counted nine of its own
        await settled(first)
        assert take(first) == 0


@pytest.mark.parametrize("count", [2, 4])
async def test_a_simultaneous_burst_is_admitted_by_each_replica_and_becomes_a_debt(redis_server, metrics, count):
    redis_server.ask("FLUSHALL")
    async with replicas(redis_server.url, metrics, SLOW, count) as all_:
        assert [take(one) for one in all_] == [10] * count
        await settled(*all_)

        debts = [one._bucket.wait_s() for one in all_]

    # The largest debt is two bursts: one token in 11 of 20 × 1000 s.
    assert max(debts) == pytest.approx(11_000, rel=0.01)


async def test_while_redis_is_stopped_each_replica_enforces_its_own_rate(metrics):
    with RedisServer() as server:
        async with replicas(server.url, metrics, SLOW) as (first, second):
            assert take(first, 4) == 4
            await settled(first)
            server.kill()

            assert take(first) == 6
            assert take(second) == 10
            await settled(first, second)


async def test_after_an_empty_restart_of_redis_each_replica_keeps_its_own_count(metrics):
    with RedisServer() as server:
        async with replicas(server.url, metrics, SLOW) as (first, second):
            assert take(first, 8) == 8
            await settled(first)
            server.restart()

            assert take(first) == 2
            assert take(second) == 10


async def test_requests_never_wait_for_redis(redis_server, metrics):
    redis_server.ask("FLUSHALL")
    async with replicas(redis_server.url, metrics, SLOW) as (first, _):
        redis_server.pause()
        try:
            with first.permit():
                settling = first._settling
                assert not settling.done()
        finally:
            redis_server.resume()
        await asyncio.wait_for(settling, 60)
