"""Masks of earlier answers: read together, and deleted with their image."""

import asyncio

import numpy as np
import pytest
from support.redis_server import eventually

from service.cache.codecs import MaskCodec
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.tier import RedisCache
from service.errors import MaskNotFound
from service.inference.image_key import ImageKey
from service.inference.refinement_masks import RefinementMasks
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.sam.embedding import deletion_group, image_hash

KEYS = [ImageKey(image_hash(name), "", "model", "float16") for name in (b"a", b"b")]
MASK_ID = "0" * 32
LOGITS = np.ones((256, 256), np.float16)


@pytest.fixture
async def masks(redis_server, metrics):
    """Refinement masks of one process, with `held` for its memory tier and `shared` for its Redis tier."""
    executor, background, recent_deletions = (
        TimedExecutor("test", 1),
        BackgroundWork(8, metrics),
        RecentDeletions(1000.0),
    )
    client = connect(redis_server.url, read_timeout_s=5.0)
    shared = RedisCache(
        client,
        MaskCodec("model"),
        ttl_s=1000.0,
        breaker=CircuitBreaker(metrics=metrics),
        metrics=metrics,
        executor=executor.executor,
    )
    memory = MemoryCache(1 << 20, 1000.0, metrics, group=deletion_group)
    made = RefinementMasks(memory, shared, background, recent_deletions)
    made.held, made.shared, made.recent_deletions = memory, shared, recent_deletions
    yield made
    await background.aclose(5.0)
    await client.aclose()
    executor.close()


async def test_a_mask_that_is_looked_up_while_its_image_is_deleted_does_not_stay_in_memory(masks, new_context):
    for key in KEYS:
        await masks.shared.put(key.mask_key(MASK_ID), LOGITS)
    context = new_context()
    masks.recent_deletions.add(KEYS[0].cache_key)

    for key in KEYS:
        found = await masks.find(key, [MASK_ID], context)
        assert found[MASK_ID].shape == (256, 256)

    assert masks.held.keys() == [KEYS[1].mask_key(MASK_ID)]


async def test_the_masks_of_a_deleted_image_are_dropped_and_no_others(masks, new_context):
    for key in KEYS:
        await masks.keep(key, [(MASK_ID, LOGITS)], new_context())

    assert masks.recent_deletions.add(KEYS[0].cache_key)

    assert masks.held.keys() == [KEYS[1].mask_key(MASK_ID)]


async def test_the_masks_of_one_request_are_read_from_redis_at_the_same_time(masks, redis_server, new_context):
    ids = [f"{number:032x}" for number in range(8)]
    for number, mask_id in enumerate(ids):
        await masks.shared.put(KEYS[0].mask_key(mask_id), LOGITS * np.float16(number))

    redis_server.pause()
    try:
        finding = asyncio.create_task(masks.find(KEYS[0], [*ids, *ids], new_context()))
        connections = masks.shared._client._permits
        await eventually(lambda: connections._value == 4, timeout_s=60)  # 4 of 8: other requests find one
    finally:
        redis_server.resume()
    found = await finding

    assert {mask_id: mask[0, 0] for mask_id, mask in found.items()} == {id_: number for number, id_ in enumerate(ids)}
    assert sorted(masks.held.keys()) == sorted(map(KEYS[0].mask_key, ids))


async def test_one_unknown_mask_among_several_is_not_found(masks, new_context):
    await masks.shared.put(KEYS[0].mask_key(MASK_ID), LOGITS)

    with pytest.raises(MaskNotFound, match="unknown"):
        await masks.find(KEYS[0], [MASK_ID, "1" * 32], new_context())
