"""The contract of `Cache`, checked for every tier."""

import asyncio
import uuid

import pytest

from service.cache.memory import MemoryCache


@pytest.fixture(params=["memory", "redis over TCP", "redis over a unix socket"])
async def cache(request, redis_server, open_cache, metrics):
    memory = MemoryCache(max_bytes=32 * 2**20, ttl_s=60.0, metrics=metrics)
    match request.param:
        case "memory":
            return memory
        case "redis over TCP":
            return open_cache(redis_server.url)
        case _:
            return open_cache(redis_server.unix_url)


def key():
    return f"edgesam:test:{uuid.uuid4().hex}"


async def test_an_absent_value_is_a_miss(cache):
    name = key()

    assert await cache.get(name) is None
    assert await cache.contains(name) is False
    assert await cache.delete(name) is False


async def test_a_value_is_read_back_unchanged(cache):
    name = key()

    await cache.put(name, memoryview(b"a value\x00\r\n\xff"))

    assert await cache.get(name) == b"a value\x00\r\n\xff"
    assert await cache.contains(name) is True


@pytest.mark.parametrize("size_bytes", [0, 1, 5999, 6001, 70_000, 3 * 2**20])
async def test_the_size_of_a_value_does_not_matter(cache, size_bytes):
    name = key()
    value = memoryview(bytes(range(256)) * (size_bytes // 256 + 1))[:size_bytes]

    await cache.put(name, value)

    assert await cache.get(name) == value


async def test_a_later_value_replaces_an_earlier_one(cache):
    name = key()

    await cache.put(name, memoryview(b"earlier"))
    await cache.put(name, memoryview(b"later"))

    assert await cache.get(name) == b"later"


async def test_a_deleted_value_is_absent(cache):
    name = key()
    await cache.put(name, memoryview(b"value"))

    assert await cache.delete(name) is True

    assert await cache.get(name) is None
    assert await cache.contains(name) is False
    assert await cache.delete(name) is False


async def test_keys_do_not_share_values(cache):
    names = [key() for _ in range(20)]

    await asyncio.gather(*(cache.put(name, memoryview(name.encode())) for name in names))
    values = await asyncio.gather(*(cache.get(name) for name in names))

    assert values == [name.encode() for name in names]


async def test_many_simultaneous_calls_are_answered(cache):
    name = key()
    value = memoryview(bytes(2**20))
    await cache.put(name, value)

    values = await asyncio.gather(*(cache.get(name) for _ in range(50)))

    assert all(found == value for found in values)


async def test_look_ups_are_counted_by_outcome(cache, lookups):
    name = key()

    await cache.get(name)
    await cache.put(name, memoryview(b"value"))
    await cache.get(name)

    counts = [lookups(cache.tier, outcome) for outcome in ("miss", "hit", "error")]
    assert counts == [1.0, 1.0, 0.0]


async def test_contains_counts_no_look_up(cache, lookups):
    await cache.contains(key())

    assert lookups(cache.tier, "miss") == 0.0


async def test_cancelled_callers_do_not_affect_later_calls(cache):
    name = key()
    await cache.put(name, memoryview(b"value"))

    callers = [asyncio.create_task(cache.get(name)) for _ in range(20)]
    await asyncio.sleep(0)  # the tasks start
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert await cache.get(name) == b"value"


async def test_closing_raises_no_error(cache):
    await cache.put(key(), memoryview(b"value"))

    await cache.aclose()


async def test_renew_returns_whether_there_is_a_value_and_counts_no_look_up(cache, metrics):
    name = key()
    await cache.put(name, memoryview(b"value"))

    assert await cache.renew(name) is True
    assert await cache.renew(key()) is False

    for outcome in ("hit", "miss"):
        assert metrics.registry.get_sample_value(
            "edgesam_cache_lookups_total", {"tier": cache.tier, "outcome": outcome}
        ) in (None, 0.0)
