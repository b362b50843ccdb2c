"""Real embeddings and masks in Redis are read back bit for bit, or are a miss."""

import numpy as np
import pytest

from service.cache.codecs import EmbeddingCodec, MaskCodec
from service.cache.memory import MemoryCache
from service.sam.embedding import ImageEmbedding, embedding_key, mask_key
from service.sam.granularity import Proposals

KEY = embedding_key("0" * 64, "model", "float16")
MASK_KEY = mask_key(KEY, "1" * 32)


def embedding(dtype=np.float16):
    tokens = np.random.default_rng(0).standard_normal((4096, 256)).astype(dtype)
    return ImageEmbedding(tokens=tokens, original_size=(1200, 1600))


def logits():
    values = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float16)
    return values.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("address", ["url", "unix_url"])
async def test_an_embedding_is_read_back_bit_for_bit(open_cache, redis_server, address, dtype):
    cache = open_cache(getattr(redis_server, address), codec=EmbeddingCodec("model"))
    value = embedding(dtype)

    await cache.put(KEY, value)
    found = await cache.get(KEY)

    assert found.original_size == (1200, 1600)
    assert found.tokens.dtype == dtype
    assert np.array_equal(found.tokens, value.tokens)


async def test_proposals_are_stored_with_their_embedding(open_cache, redis_server, metrics):
    memory = MemoryCache(max_bytes=2**23, ttl_s=60.0, metrics=metrics)
    redis = open_cache(redis_server.url, codec=EmbeddingCodec("model"))
    boxes = np.array([[0, 0, 1024, 768], [3.5, 4.25, 100, 90]], np.float32)
    value = ImageEmbedding(embedding().tokens, (1200, 1600), Proposals(boxes, np.array([0.9, 0.2], np.float32)))

    await redis.put(KEY, value)
    from_redis = await redis.get(KEY)
    await memory.put(KEY, from_redis)

    assert np.array_equal(from_redis.proposals.boxes, boxes)
    assert np.array_equal(from_redis.proposals.scores, value.proposals.scores)
    assert memory.held_bytes == 2**21 + 2 * 20


async def test_a_mask_is_read_back_bit_for_bit(open_cache, redis_server):
    cache = open_cache(redis_server.url, codec=MaskCodec("model"))
    value = logits()

    await cache.put(MASK_KEY, value)
    found = await cache.get(MASK_KEY)

    assert found.dtype == np.float16
    assert np.array_equal(found, value)


async def test_an_embedding_from_redis_counts_its_bytes_in_memory(open_cache, redis_server, metrics):
    memory = MemoryCache(max_bytes=2**23, ttl_s=60.0, metrics=metrics)
    redis = open_cache(redis_server.url, codec=EmbeddingCodec("model"))
    await redis.put(KEY, embedding())

    await memory.put(KEY, await redis.get(KEY))

    assert memory.held_bytes == 2**21
    assert memory.peek(KEY) is not None


@pytest.mark.parametrize("codec", [EmbeddingCodec, MaskCodec])
async def test_a_value_of_another_model_is_a_miss(open_cache, redis_server, codec, lookups):
    writer = open_cache(redis_server.url, codec=codec("model"))
    reader = open_cache(redis_server.url, codec=codec("another model"))
    await writer.put(KEY, embedding() if codec is EmbeddingCodec else logits())

    assert await reader.get(KEY) is None

    assert lookups("redis", "error") == 1
    assert await writer.contains(KEY) is False


async def test_a_mask_under_an_embedding_key_is_a_miss(open_cache, redis_server):
    await open_cache(redis_server.url, codec=MaskCodec("model")).put(KEY, logits())

    assert await open_cache(redis_server.url, codec=EmbeddingCodec("model")).get(KEY) is None


@pytest.mark.parametrize("codec", [EmbeddingCodec, MaskCodec])
@pytest.mark.parametrize("at", [0, 4, 5, 6, 8, 12, 17, 35, 38, 41, 5000, -1])
async def test_one_flipped_bit_anywhere_is_a_miss_and_the_value_is_deleted(
    open_cache, redis_server, codec, at, lookups
):
    cache = open_cache(redis_server.url, codec=codec("model"))
    await cache.put(KEY, embedding() if codec is EmbeddingCodec else logits())
    data = bytearray(redis_server.ask("GET", KEY))
    data[at] ^= 0x10
    redis_server.ask("SET", KEY, bytes(data))

    assert await cache.get(KEY) is None

    assert lookups("redis", "error") == 1
    assert redis_server.ask("EXISTS", KEY) == 0


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 2**21])
async def test_a_value_that_is_cut_off_is_a_miss(open_cache, redis_server, length):
    cache = open_cache(redis_server.url, codec=EmbeddingCodec("model"))
    await cache.put(KEY, embedding())
    redis_server.ask("SET", KEY, redis_server.ask("GET", KEY)[:length])

    assert await cache.get(KEY) is None


async def test_a_value_with_a_tail_is_a_miss(open_cache, redis_server):
    cache = open_cache(redis_server.url, codec=EmbeddingCodec("model"))
    await cache.put(KEY, embedding())
    redis_server.ask("APPEND", KEY, b"\x00")

    assert await cache.get(KEY) is None
