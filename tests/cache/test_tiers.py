"""Several tiers as one: order, copying up, and what one of them that is gone means."""

import asyncio

import pytest
from support.redis_server import RedisServer, free_port

from service.cache.memory import MemoryCache
from service.cache.tiers import TieredCache
from service.errors import CacheUnavailable


@pytest.fixture
def open_memory(metrics):
    """A memory tier."""
    return lambda tier="memory": MemoryCache(max_bytes=1000, ttl_s=60.0, metrics=metrics, tier=tier)


def nowhere():
    return f"redis://127.0.0.1:{free_port()}"


async def test_a_hit_below_is_copied_up_and_the_next_one_comes_from_there(open_memory, open_cache, redis_server):
    memory, redis = open_memory(), open_cache(redis_server.url)
    cache = TieredCache(memory, redis)
    await redis.put("edgesam:copied", memoryview(b"value"))

    first = await cache.find("edgesam:copied")
    second = await cache.find("edgesam:copied")

    assert first == (b"value", "redis")
    assert second == (b"value", "memory")


async def test_the_first_tier_that_has_it_answers(open_memory, open_cache, redis_server, lookups):
    memory, redis = open_memory(), open_cache(redis_server.url)
    cache = TieredCache(memory, redis)
    await cache.put("edgesam:first", memoryview(b"value"))

    await cache.get("edgesam:first")

    assert lookups("memory", "hit") == 1
    assert lookups("redis", "hit") == lookups("redis", "miss") == 0


async def test_what_memory_has_needs_no_redis(open_memory, open_cache):
    memory = open_memory()
    cache = TieredCache(memory, open_cache(nowhere()))
    await memory.put("a", memoryview(b"value"))

    assert await cache.get("a") == b"value"
    assert await cache.contains("a")


async def test_if_nobody_has_it_and_one_could_not_be_asked_nobody_knows(open_memory, open_cache):
    cache = TieredCache(open_memory(), open_cache(nowhere()))

    with pytest.raises(CacheUnavailable):
        await cache.get("a")
    with pytest.raises(CacheUnavailable):
        await cache.contains("a")


async def test_behind_a_tier_that_cannot_be_asked_the_next_one_is_asked(open_memory, open_cache):
    last = open_memory("last")
    cache = TieredCache(open_memory("first"), open_cache(nowhere()), last)
    await last.put("a", memoryview(b"value"))

    assert await cache.find("a") == (b"value", "last")
    assert await cache.find("a") == (b"value", "first")


async def test_a_value_reaches_every_tier_that_can_be_reached(open_memory, open_cache):
    first, last = open_memory("first"), open_memory("last")
    cache = TieredCache(first, open_cache(nowhere()), last)

    with pytest.raises(CacheUnavailable):
        await cache.put("a", memoryview(b"value"))

    assert await first.get("a") == b"value"
    assert await last.get("a") == b"value"


async def test_the_memory_tier_has_a_value_before_redis_is_asked(open_memory, open_cache):
    memory = open_memory()
    cache = TieredCache(memory, open_cache(nowhere()))
    putting = cache.put("a", memoryview(b"value"))

    putting.send(None)  # runs to the first wait, which is Redis's

    assert memory.peek("a") == b"value"
    putting.close()


async def test_a_deletion_reaches_every_tier_and_says_if_one_did_not_confirm(open_memory, open_cache):
    first, last = open_memory("first"), open_memory("last")
    cache = TieredCache(first, open_cache(nowhere()), last)
    await first.put("a", memoryview(b"value"))
    await last.put("a", memoryview(b"value"))

    with pytest.raises(CacheUnavailable):
        await cache.delete("a")

    assert not await first.contains("a")
    assert not await last.contains("a")


async def test_a_corrupt_value_below_is_a_miss_of_the_whole(open_memory, open_cache, redis_server):
    cache = TieredCache(open_memory(), open_cache(redis_server.url))
    redis_server.ask("SET", "edgesam:corrupt", b"not a value")

    assert await cache.get("edgesam:corrupt") is None


async def test_one_replica_finds_what_another_put(open_memory, open_cache, redis_server):
    one = TieredCache(open_memory("one"), open_cache(redis_server.url))
    other = TieredCache(open_memory("other"), open_cache(redis_server.url))

    await one.put("edgesam:shared", memoryview(b"value"))

    assert await other.find("edgesam:shared") == (b"value", "redis")


async def test_values_survive_in_memory_while_redis_comes_back_empty(open_memory, open_cache):
    with RedisServer() as server:
        redis = open_cache(server.url)
        cache = TieredCache(open_memory(), redis)
        await cache.put("a", memoryview(b"value"))

        await asyncio.to_thread(server.restart)

        assert await redis.get("a") is None
        assert await cache.get("a") == b"value"


async def test_all_tiers_are_closed(open_memory, open_cache, redis_server):
    memory = open_memory()
    cache = TieredCache(memory, open_cache(redis_server.url))
    await memory.put("a", memoryview(b"value"))

    await cache.aclose()

    assert memory.held_bytes == 0
