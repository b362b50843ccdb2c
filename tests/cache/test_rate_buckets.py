"""Shared token buckets on a real Redis: charges become a debt that falls with time. Invalid values are clamped."""

import asyncio

import pytest
from support.redis_server import RedisServer

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.rate_buckets import RateBuckets
from service.errors import CacheUnavailable

KEY = "edgesam:limit:key"


@pytest.fixture
async def buckets(redis_server, metrics):
    client = connect(redis_server.url, connect_timeout_s=10.0, read_timeout_s=10.0)
    redis_server.ask("FLUSHALL")
    yield RateBuckets(client, CircuitBreaker(metrics=metrics))
    await client.aclose()


async def test_taken_tokens_are_a_debt_until_they_are_refilled(buckets, redis_server):
    first = await buckets.settle("key", taken_s=100.0, burst_s=1000.0)
    second = await buckets.settle("key", taken_s=200.0, burst_s=1000.0)
    asked = await buckets.settle("key", taken_s=0.0, burst_s=1000.0)

    assert first == 100.0
    assert 299.0 < second <= 300.0
    assert asked <= second
    assert 0 < redis_server.ask("PTTL", KEY) <= 300_000


async def test_a_full_bucket_has_no_key(buckets, redis_server):
    await buckets.settle("key", taken_s=0.02, burst_s=1.0)
    await asyncio.sleep(0.03)  # the time has to pass

    assert await buckets.settle("key", taken_s=0.0, burst_s=1.0) == 0.0
    assert redis_server.ask("EXISTS", KEY) == 0


async def test_the_debt_is_bounded(buckets):
    assert await buckets.settle("key", taken_s=1e6, burst_s=10.0) == 20.0


async def test_buckets_are_independent(buckets):
    await buckets.settle("key", taken_s=5.0, burst_s=10.0)

    assert await buckets.settle("other", taken_s=0.0, burst_s=10.0) == 0.0


@pytest.mark.parametrize("value", ["", "rubbish", "-5", "1e300", "nan", "inf", "\x00\xff"])
async def test_an_invalid_value_in_redis_is_clamped(buckets, redis_server, value):
    redis_server.ask("SET", KEY, value)

    assert 0.9 < await buckets.settle("key", taken_s=1.0, burst_s=10.0) <= 20.0


async def test_the_documented_rights_are_sufficient(metrics):
    rights = "+get +getex +getrange +set +unlink +exists +pexpire +eval +time"
    rules = f"user edgesam on >pw ~edgesam:* resetchannels -@all {rights}"
    with RedisServer(acl=[rules]) as server:
        url = f"redis://edgesam:pw@127.0.0.1:{server.port}"
        client = connect(url, connect_timeout_s=10.0, read_timeout_s=10.0)
        try:
            buckets = RateBuckets(client, CircuitBreaker(metrics=metrics))
            assert await buckets.settle("key", taken_s=1.0, burst_s=10.0) == 1.0
        finally:
            await client.aclose()


async def test_a_stopped_redis_is_reported(metrics):
    client = connect("redis://127.0.0.1:1", connect_timeout_s=10.0)
    try:
        with pytest.raises(CacheUnavailable):
            await RateBuckets(client, CircuitBreaker(metrics=metrics)).settle("key", taken_s=1.0, burst_s=10.0)
    finally:
        await client.aclose()
