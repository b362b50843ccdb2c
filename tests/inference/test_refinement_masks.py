"""Masks of earlier answers: stored before the answer, read together, and deleted with their image."""

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
    made = RefinementMasks(memory, shared, background, recent_deletions, store_timeout_s=60.0)
    made.held, made.shared, made.recent_deletions, made.background = memory, shared, recent_deletions, background
    yield made
    await background.aclose(5.0)
    await client.aclose()
    executor.close()


async def keep(masks, key, context, mask_ids=(MASK_ID,)):
    """Keep masks as an answer does: a worker thread adds them, and then the answer waits for them."""
    with masks.of_answer(key, context) as answer:
        await asyncio.to_thread(answer.add, [(mask_id, LOGITS) for mask_id in mask_ids])
        await masks.keep(answer)


async def test_redis_has_all_masks_of_an_answer_when_they_are_kept(masks, new_context):
    ids = [f"{number:032x}" for number in range(4)]

    await keep(masks, KEYS[0], new_context(), ids)

    assert [await masks.shared.contains(KEYS[0].mask_key(mask_id)) for mask_id in ids] == [True] * 4


async def test_a_silent_redis_holds_up_an_answer_for_a_bounded_time_and_stores_its_masks_later(
    redis_server, masks, metrics, new_context
):
    hurried = RefinementMasks(masks.held, masks.shared, masks.background, masks.recent_deletions, store_timeout_s=0.01)
    redis_server.pause()
    try:
        await keep(hurried, KEYS[0], new_context())
        found = await hurried.find(KEYS[0], [MASK_ID], new_context())
    finally:
        redis_server.resume()

    assert found[MASK_ID] is LOGITS
    stored = lambda: redis_server.ask("EXISTS", KEYS[0].mask_key(MASK_ID)) == 1
    await eventually(stored, timeout_s=60)


async def test_an_answer_without_redis_is_not_held_up(redis_server, masks, new_context):
    redis_server.kill()
    try:
        await keep(masks, KEYS[0], new_context())
    finally:
        redis_server.start()

    assert masks.held.keys() == [KEYS[0].mask_key(MASK_ID)]


async def test_the_masks_of_an_image_that_was_deleted_meanwhile_are_kept_nowhere(masks, new_context):
    context = new_context()
    masks.recent_deletions.add(KEYS[0].cache_key)

    await keep(masks, KEYS[0], context)

    assert masks.held.keys() == []
    assert not await masks.shared.contains(KEYS[0].mask_key(MASK_ID))


async def test_an_answer_that_fails_cancels_the_writes_of_its_masks(redis_server, masks, new_context):
    redis_server.pause()
    try:
        with pytest.raises(ZeroDivisionError), masks.of_answer(KEYS[0], new_context()) as answer:  # noqa: PT012
            await asyncio.to_thread(answer.add, [(MASK_ID, LOGITS)])
            await eventually(lambda: bool(answer.writes), timeout_s=60)
            raise ZeroDivisionError
        await asyncio.wait(answer.writes)
    finally:
        redis_server.resume()

    assert [write.cancelled() for write in answer.writes] == [True]


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
        await keep(masks, key, new_context())

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
