"""Masks of earlier answers go with their picture."""

from time import monotonic

import numpy as np
import pytest

from service.cache.codecs import MaskCodec
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.tier import RedisCache, connect
from service.inference.refinement_masks import RefinementMasks
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.sam.embedding import embedding_key, image_hash, image_of_mask, mask_key

PICTURES = [image_hash(name) for name in (b"a", b"b")]
KEYS = [embedding_key(picture, "model", "float16") for picture in PICTURES]
MASK_KEYS = [mask_key(picture, "0" * 32, "model", "float16") for picture in PICTURES]
LOGITS = np.ones((256, 256), np.float16)


@pytest.fixture
async def masks(redis_server, metrics):
    """Of this process, with its memory and what Redis has."""
    workers, background, recent_deletions = TimedExecutor("test", 1), BackgroundWork(8, metrics), RecentDeletions(1000.0)
    client = connect(redis_server.url, read_timeout_s=5.0)
    shared = RedisCache(
        client,
        MaskCodec("model"),
        ttl_s=1000.0,
        breaker=CircuitBreaker(metrics=metrics),
        metrics=metrics,
        executor=workers.executor,
    )
    memory = MemoryCache(1 << 20, 1000.0, metrics, group=image_of_mask)
    made = RefinementMasks(memory, shared, background, recent_deletions)
    made.held, made.shared, made.recent_deletions = memory, shared, recent_deletions
    yield made
    await background.aclose(5.0)
    await client.aclose()
    workers.close()


async def test_a_mask_that_is_looked_up_while_its_picture_is_deleted_does_not_stay_in_memory(masks):
    for one in MASK_KEYS:
        await masks.shared.put(one, LOGITS)
    began = monotonic()
    masks.recent_deletions.add(KEYS[0])

    for key, one in zip(KEYS, MASK_KEYS, strict=True):
        assert (await masks.find(one, key=key, began=began)).shape == (256, 256)

    assert masks.held.keys() == [MASK_KEYS[1]]


async def test_the_masks_of_a_forgotten_picture_are_dropped_and_no_others(masks):
    for key, one in zip(KEYS, MASK_KEYS, strict=True):
        await masks.keep(key, [(one, LOGITS)], began=monotonic())

    assert masks.recent_deletions.add(KEYS[0])

    assert masks.held.keys() == [MASK_KEYS[1]]
