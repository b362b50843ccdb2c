"""Embeddings of 8 and 16 MiB in Redis: they are read back, others are misses, and few are transferred at a time."""

import asyncio

import numpy as np
import pytest
from support.cache_values import embedding, high_res, in_int8, parts_of_maps, sealed
from support.redis_server import RedisServer

from service.cache.codecs import EmbeddingCodec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.tier import RedisCache
from service.composition.cache import LARGE_TRANSFERS
from service.errors import CacheUnavailable

KEY = "edgesam:2:model:float16:" + "0" * 64
MIB = 1 << 20


def codec(fingerprint="model", *, has_high_res=True):
    return EmbeddingCodec(fingerprint, has_high_res=has_high_res)


@pytest.fixture
def cache(open_cache, redis_server):
    return open_cache(redis_server.url, codec=codec())


@pytest.mark.parametrize(("dtype", "mebibytes"), [(np.float16, 8), (np.float32, 16)])
async def test_maps_are_read_back_bit_for_bit(cache, redis_server, dtype, mebibytes):
    value = high_res(dtype)

    await cache.put(KEY, value)
    found = await cache.get(KEY)

    assert redis_server.ask("STRLEN", KEY) == 40 + mebibytes * MIB
    assert found.info == value.info
    for array, expected in (
        (found.tokens, value.tokens), (found.high_res.s1, value.high_res.s1), (found.high_res.s0, value.high_res.s0)
    ):  # fmt: skip
        assert array.dtype == dtype
        assert np.array_equal(array, expected)


async def test_int8_tokens_and_their_maps_are_read_back_bit_for_bit(cache, redis_server):
    value = in_int8(high_res())

    await cache.put(KEY, value)
    found = await cache.get(KEY)

    assert redis_server.ask("STRLEN", KEY) == 40 + 7 * MIB + 1024
    assert np.array_equal(found.tokens, value.tokens)
    assert np.array_equal(found.scales, value.scales)
    assert np.array_equal(found.high_res.s1, value.high_res.s1)
    assert np.array_equal(found.high_res.s0, value.high_res.s0)


@pytest.mark.parametrize("has_high_res", [True, False])
async def test_a_value_of_the_other_family_is_a_miss_and_deleted_even_with_the_same_fingerprint(
    open_cache, redis_server, lookups, has_high_res
):
    writer = open_cache(redis_server.url, codec=codec(has_high_res=not has_high_res))
    reader = open_cache(redis_server.url, codec=codec(has_high_res=has_high_res))
    await writer.put(KEY, embedding() if has_high_res else high_res())

    assert await reader.get(KEY) is None

    assert lookups("redis", "error") == 1
    assert redis_server.ask("EXISTS", KEY) == 0


async def test_maps_of_another_model_are_a_miss(open_cache, redis_server):
    await open_cache(redis_server.url, codec=codec("another model")).put(KEY, high_res())

    assert await open_cache(redis_server.url, codec=codec()).get(KEY) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tokens, s1, s0: header + s1 + tokens + s0,
        lambda header, tokens, s1, s0: header + tokens + s0 + s1,
        lambda header, tokens, s1, s0: header + tokens + s1,
        lambda header, tokens, s1, s0: header + tokens + s1 + s0[:-1],
        lambda header, tokens, s1, s0: header + tokens + s1 + s0 + b"\0",
        lambda header, tokens, s1, s0: sealed(header, tokens + s1 + s0[:-2]),
        lambda header, tokens, s1, s0: sealed(header, tokens + s1 + s0 + bytes(20)),
        lambda header, tokens, s1, s0: sealed(header, tokens),
    ],
    ids=["s1 first", "s0 before s1", "no s0", "cut", "longer", "cut, sealed", "longer, sealed", "tokens alone, sealed"],
)
async def test_maps_that_were_swapped_or_cut_are_a_miss_and_deleted(cache, redis_server, change):
    await cache.put(KEY, high_res())
    redis_server.ask("SET", KEY, change(*parts_of_maps(redis_server.ask("GET", KEY))))

    assert await cache.get(KEY) is None
    assert redis_server.ask("EXISTS", KEY) == 0


@pytest.mark.parametrize("at", [5, 17, 38, 40 + MIB, 40 + 3 * MIB, 40 + 5 * MIB, -1])
async def test_one_flipped_bit_in_any_map_is_a_miss(cache, redis_server, at):
    await cache.put(KEY, high_res())
    data = bytearray(redis_server.ask("GET", KEY))
    data[at] ^= 0x10
    redis_server.ask("SET", KEY, bytes(data))

    assert await cache.get(KEY) is None


@pytest.fixture
def open_large(open_client, metrics, executor):
    """A function that returns a tier of large values, which have two connections of their own."""

    def open_(url, **bounds):
        return RedisCache(
            open_client(url),
            codec(),
            ttl_s=60.0,
            breaker=CircuitBreaker(failures=1000, metrics=metrics),
            metrics=metrics,
            executor=executor,
            transfers=open_client(url, max_connections=LARGE_TRANSFERS, **bounds),
        )

    return open_


async def test_only_few_large_values_are_transferred_at_a_time(open_large, redis_server):
    cache = open_large(redis_server.url)
    before = redis_server.ask("INFO", "stats")["total_connections_received"]

    await asyncio.gather(*(cache.get(f"{KEY}{number}") for number in range(8)))

    opened = redis_server.ask("INFO", "stats")["total_connections_received"] - before - 1  # `ask` opens its own
    assert opened == LARGE_TRANSFERS


async def test_a_transfer_that_waits_too_long_is_unavailable_and_short_commands_do_not_wait_for_it(
    open_large,
):
    with RedisServer() as server:
        cache = open_large(server.url, queue_timeout_s=0.1)
        await cache.put(KEY, high_res())
        server.pause()
        running = [asyncio.ensure_future(cache.get(KEY)) for _ in range(LARGE_TRANSFERS)]
        await asyncio.sleep(0)  # they begin

        with pytest.raises(CacheUnavailable, match="busy"):
            await cache.get(KEY)
        renewed = asyncio.ensure_future(cache.renew(KEY))
        server.resume()

        assert await renewed
        assert all(found is not None for found in await asyncio.gather(*running))
