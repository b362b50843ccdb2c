"""Fixtures of the cache tests: one Redis for all tests, and clients that are closed after each test."""

import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.connect import connect
from service.cache.redis.tier import RedisCache
from service.sam.embedding_bytes import CorruptValue


class NoteCodec:
    """A minimal codec: a checksum and the bytes. Its values are memoryviews, which have `nbytes`."""

    def encode(self, value: memoryview) -> bytes:
        return zlib.crc32(value).to_bytes(4, "little") + value

    def decode(self, data: bytes) -> memoryview:
        if zlib.crc32(data[4:]).to_bytes(4, "little") != data[:4]:
            raise CorruptValue("The checksum is wrong.")
        return memoryview(data)[4:]


@pytest.fixture(scope="session")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="codec") as pool:
        yield pool


@pytest.fixture
def codec() -> NoteCodec:
    return NoteCodec()


@pytest.fixture
async def open_client() -> AsyncIterator[Callable[..., RedisClient]]:
    """`connect` with long timeouts by default, because the machine may be busy. Clients are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_(url: str, **bounds: float) -> RedisClient:
            client = connect(url, **{"connect_timeout_s": 5.0, "read_timeout_s": 5.0, "queue_timeout_s": 20.0} | bounds)
            stack.push_async_callback(client.aclose)
            return client

        yield open_


@pytest.fixture
def open_cache(open_client, codec, metrics, executor) -> Callable[..., RedisCache]:
    """A function that returns a Redis tier over a client of its own, as another replica would have."""

    def open_(url: str, *, breaker=None, codec=codec, ttl_s=60.0, lookups=True, **bounds: float) -> RedisCache:
        return RedisCache(
            open_client(url, **bounds),
            codec,
            ttl_s=ttl_s,
            breaker=breaker or CircuitBreaker(metrics=metrics),
            metrics=metrics,
            executor=executor,
            lookups=lookups,
        )

    return open_


@pytest.fixture
def lookups(metrics) -> Callable[[str, str], float]:
    """A function that returns the number of look-ups so far by (tier, outcome)."""

    def count(tier: str, outcome: str) -> float:
        labels = {"tier": tier, "outcome": outcome}
        return metrics.registry.get_sample_value("edgesam_cache_lookups_total", labels) or 0.0

    return count
