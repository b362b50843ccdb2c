"""The memory tier: bounded in bytes, evicts the least recently used value first, each use renews the time to live."""

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.cache.memory import MemoryCache
from service.telemetry.metrics import Metrics


class Clock:
    """A clock that the test advances, in seconds."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def value(size_bytes):
    return memoryview(bytes(size_bytes))


def evictions(metrics):
    return metrics.registry.get_sample_value("edgesam_cache_evictions_total", {"tier": "memory"})


async def test_the_least_recently_used_value_is_evicted(metrics):
    cache = MemoryCache(max_bytes=30, ttl_s=60.0, metrics=metrics)
    for name in ("a", "b", "c"):
        await cache.put(name, value(10))
    await cache.get("a")

    await cache.put("d", value(10))

    assert [await cache.contains(name) for name in ("a", "b", "c", "d")] == [True, False, True, True]
    assert evictions(metrics) == 1


async def test_a_large_value_evicts_as_many_as_it_needs_and_no_more(metrics):
    cache = MemoryCache(max_bytes=40, ttl_s=60.0, metrics=metrics)
    for name in ("a", "b", "c", "d"):
        await cache.put(name, value(10))

    await cache.put("large", value(25))

    assert [await cache.contains(name) for name in ("a", "b", "c", "d", "large")] == [False, False, False, True, True]
    assert cache.held_bytes == 35
    assert evictions(metrics) == 3


async def test_a_value_of_exactly_the_bound_is_kept(metrics):
    cache = MemoryCache(max_bytes=40, ttl_s=60.0, metrics=metrics)

    await cache.put("a", value(40))

    assert await cache.contains("a")


async def test_a_value_above_the_bound_is_not_kept_and_evicts_nothing_but_its_predecessor(metrics):
    cache = MemoryCache(max_bytes=40, ttl_s=60.0, metrics=metrics)
    await cache.put("a", value(10))
    await cache.put("b", value(10))

    await cache.put("b", value(41))

    assert await cache.contains("a")
    assert await cache.get("b") is None
    assert cache.held_bytes == 10
    assert evictions(metrics) == 0


@pytest.mark.parametrize("size_bytes", [0, 1])
async def test_a_tier_of_zero_bytes_stores_nothing(metrics, size_bytes):
    cache = MemoryCache(max_bytes=0, ttl_s=60.0, metrics=metrics)

    await cache.put("a", value(size_bytes))

    assert await cache.get("a") is None


async def test_a_value_expires_after_its_time(metrics):
    clock = Clock()
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics, clock=clock)
    await cache.put("a", value(10))

    clock.now_s += 59.9
    was_there = await cache.contains("a")
    clock.now_s += 0.1

    assert was_there
    assert await cache.get("a") is None
    assert await cache.delete("a") is False
    assert cache.held_bytes == 0
    assert evictions(metrics) == 1


@pytest.mark.parametrize("use", ["get", "peek"])
async def test_every_use_renews_the_time_to_live(metrics, use):
    clock = Clock()
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics, clock=clock)
    await cache.put("a", value(10))

    for _ in range(5):
        clock.now_s += 59.0
        found = cache.peek("a") if use == "peek" else await cache.get("a")
        assert found is not None

    clock.now_s += 60.0
    assert await cache.get("a") is None


async def test_contains_does_not_renew_the_time_to_live(metrics):
    clock = Clock()
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics, clock=clock)
    await cache.put("a", value(10))

    clock.now_s += 59.0
    await cache.contains("a")
    clock.now_s += 1.0

    assert await cache.contains("a") is False


async def test_storing_a_value_frees_the_bytes_of_expired_values(metrics):
    clock = Clock()
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics, clock=clock)
    await cache.put("a", value(10))
    clock.now_s += 61.0

    await cache.put("b", value(10))

    assert cache.held_bytes == 10


async def test_peek_counts_hits_and_no_misses(metrics, lookups):
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics)
    await cache.put("a", value(10))

    cache.peek("a")
    cache.peek("b")

    assert lookups("memory", "hit") == 1
    assert lookups("memory", "miss") == 0


async def test_the_bytes_held_are_shown_when_scraped(metrics):
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics, tier="masks")

    await cache.put("a", value(10))
    await cache.put("a", value(30))

    assert metrics.registry.get_sample_value("edgesam_cache_bytes", {"tier": "masks"}) == 30


async def test_closing_frees_all_bytes(metrics):
    cache = MemoryCache(max_bytes=100, ttl_s=60.0, metrics=metrics)
    await cache.put("a", value(10))

    await cache.aclose()

    assert cache.held_bytes == 0
    assert await cache.get("a") is None


class PlainCache:
    """A slow reference of `MemoryCache`: each call checks every entry."""

    def __init__(self, max_bytes, ttl_s):
        self.max_bytes, self.ttl_s = max_bytes, ttl_s
        self.entries = OrderedDict()  # key -> (size, last use)

    def get(self, key, now_s):
        self.expire(now_s)
        if key not in self.entries:
            return None
        size, _ = self.entries.pop(key)
        self.entries[key] = (size, now_s)
        return size

    def put(self, key, size, now_s):
        self.expire(now_s)
        self.entries.pop(key, None)
        if size <= self.max_bytes:
            while self.held() + size > self.max_bytes:
                self.entries.popitem(last=False)
            self.entries[key] = (size, now_s)

    def delete(self, key, now_s):
        self.expire(now_s)
        return self.entries.pop(key, None) is not None

    def expire(self, now_s):
        self.entries = OrderedDict((k, e) for k, e in self.entries.items() if now_s - e[1] < self.ttl_s)

    def held(self):
        return sum(size for size, _ in self.entries.values())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "peek", "put", "delete"]),
        st.sampled_from("abcdef"),
        st.integers(0, 14),
        st.integers(0, 4),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS)
async def test_any_calls_give_the_results_of_the_slow_reference(steps):
    clock = Clock()
    cache = MemoryCache(max_bytes=12, ttl_s=8.0, metrics=Metrics(CollectorRegistry()), clock=clock)
    plain = PlainCache(max_bytes=12, ttl_s=8.0)

    for verb, key, size, passes_s in steps:
        clock.now_s += passes_s
        if verb == "put":
            await cache.put(key, value(size))
            plain.put(key, size, clock.now_s)
        elif verb == "delete":
            assert await cache.delete(key) == plain.delete(key, clock.now_s)
        else:
            found = cache.peek(key) if verb == "peek" else await cache.get(key)
            assert (None if found is None else found.nbytes) == plain.get(key, clock.now_s)

        assert cache.held_bytes == plain.held() <= 12


async def test_a_group_is_dropped_as_a_whole_after_other_removals(metrics):
    cache = MemoryCache(4, 1000.0, metrics, group=lambda key: key[0])
    for key in ("a1", "a2", "b1", "a3"):
        await cache.put(key, memoryview(b"x"))
    await cache.put("a2", memoryview(b"y"))
    await cache.put("b2", memoryview(b"x"))  # evicts a1
    cache.drop("b1")

    assert sorted(cache.drop_group("a")) == ["a2", "a3"]

    assert cache.keys() == ["b2"]
    assert cache.drop_group("a") == []
    cache.drop("b2")
    assert cache._groups == {}
