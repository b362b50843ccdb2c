"""Embeddings in memory are renewed in Redis, and stored again if Redis lost them."""

import asyncio
import logging
from contextlib import suppress
from time import monotonic

import numpy as np
import pytest
from support.redis_server import eventually
from tools.faults.proxy import Proxy

from service.cache.codecs import EmbeddingCodec
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.deletions import Deletions, tombstone_key
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.deletion_subscriber import DeletionSubscriber
from service.inference.image_states import ImageStates
from service.inference.prefetching import MAX_PREFETCHES
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding, deletion_group, embedding_key, image_hash

WAIT_S = 60.0


@pytest.fixture
def way(redis_server):
    """The proxy between this replica and Redis."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def open_states(runtime, way, metrics):
    """A function that returns image states over a real Redis, with the given interval of renewals."""
    executor, background = TimedExecutor("test", 1), BackgroundWork(8, metrics)
    client = connect(f"redis://127.0.0.1:{way.port}", read_timeout_s=5.0)
    breaker = CircuitBreaker(failures=1000, metrics=metrics)
    shared = RedisCache(
        client,
        EmbeddingCodec("model"),
        ttl_s=1000.0,
        breaker=breaker,
        metrics=metrics,
        executor=executor.executor,
    )
    memory = MemoryCache(64 << 20, 1000.0, metrics, group=deletion_group)
    deletions, recent_deletions = (
        Deletions(client, breaker, tombstone_ttl_s=1000.0),
        RecentDeletions(1000.0, max_keys=3),
    )

    def open_(renew_every_s):
        return ImageStates(
            memory,
            shared,
            deletions=deletions,
            recent_deletions=recent_deletions,
            runtime=runtime,
            executor=executor,
            background=background,
            renew_every_s=renew_every_s,
        )

    open_.background, open_.recent_deletions, open_.memory = background, recent_deletions, memory
    open_.deletions, open_.executor = deletions, executor
    yield open_
    await background.aclose(5.0)
    await client.aclose()
    executor.close()


def key_of(name):
    return embedding_key(image_hash(name.encode()), "model", "float16")


async def add(states, context, name, *, tombstone):
    """Store an embedding as an upload does after encoding."""
    tokens = np.random.default_rng(0).normal(0, 1, (4096, 256)).astype(np.float16)
    await states.add(key_of(name), ImageEmbedding(tokens, (30, 40)), context, tombstone=tombstone)


async def kept(states, context, name):
    """Upload an image to memory, and to Redis if it answers. Return its key."""
    tombstone = None
    with suppress(CacheUnavailable):
        tombstone = await states.tombstone(key_of(name))
    await add(states, context, name, tombstone=tombstone)
    return key_of(name)


async def test_an_image_in_use_is_renewed_in_redis_after_the_answer(open_states, redis_server, new_context):
    states = open_states(0.0)
    key = await kept(states, new_context(), "renewed")
    redis_server.ask("PEXPIRE", key, "60000")

    await states.find(key, new_context())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("PTTL", key)) > 60_000


async def test_an_image_in_use_that_redis_lost_is_stored_again(open_states, redis_server, new_context):
    states = open_states(0.0)
    key = await kept(states, new_context(), "lost")
    redis_server.ask("UNLINK", key)

    await states.find(key, new_context())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("EXISTS", key)) == 1


async def test_clicks_of_one_caller_leave_capacity_for_renewals_of_another_caller(
    open_states, redis_server, new_context, metrics
):
    states = open_states(0.0)
    key = await kept(states, new_context(), "shared")
    redis_server.ask("PEXPIRE", key, "60000")
    redis_server.pause()
    try:
        for caller in ["a"] * 8 + ["b"]:
            await states.find(key, new_context(caller))
    finally:
        redis_server.resume()
    await open_states.background.aclose(5.0)

    # Caller a has six of the eight tasks. Two of its tasks were refused, and none of the other caller.
    assert metrics.registry.get_sample_value("edgesam_rejected_total", {"reason": "background"}) == 2


async def test_an_image_is_not_renewed_with_every_click(open_states, redis_server, new_context):
    states = open_states(1000.0)
    key = await kept(states, new_context(), "often")
    redis_server.ask("PEXPIRE", key, "60000")

    for _ in range(3):
        await states.find(key, new_context())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("PTTL", key)) <= 60_000


@pytest.fixture
async def elsewhere(redis_server, metrics):
    """Deletions of another replica, to which this one does not subscribe."""
    client = connect(redis_server.url, read_timeout_s=5.0)
    yield Deletions(client, CircuitBreaker(metrics=metrics), tombstone_ttl_s=1000.0)
    await client.aclose()


async def test_an_image_deleted_by_another_replica_is_not_stored_again_without_a_message(
    open_states, elsewhere, redis_server, new_context
):
    states = open_states(0.0)
    key = await kept(states, new_context(), "deleted elsewhere")
    assert await elsewhere.delete(key) is True

    await states.find(key, new_context())  # it is in memory, and the click does not wait for Redis
    await open_states.background.aclose(5.0)

    assert redis_server.ask("EXISTS", key) == 0
    with pytest.raises(EmbeddingNotFound):
        await states.find(key, new_context())


async def test_looking_up_an_image_that_another_replica_deleted_finds_none(open_states, elsewhere, new_context):
    states = open_states(1000.0)
    key = await kept(states, new_context(), "asked for")
    await elsewhere.delete(key)

    assert await states.contains(key) is None
    assert await states.contains(key) is None


async def test_an_image_that_is_embedded_anew_after_its_deletion_is_kept(
    open_states, elsewhere, redis_server, new_context
):
    states = open_states(0.0)
    key = await kept(states, new_context(), "embedded anew")
    await elsewhere.delete(key)
    await states.contains(key)

    assert await kept(states, new_context(), "embedded anew") == key
    redis_server.ask("UNLINK", key)  # as if Redis had lost it
    await states.find(key, new_context())
    await open_states.background.aclose(5.0)

    assert redis_server.ask("EXISTS", key) == 1


async def test_work_that_began_before_a_deletion_stores_nothing(open_states, redis_server, new_context):
    states = open_states(0.0)
    context = new_context()
    open_states.recent_deletions.add(embedding_key(image_hash(b"late"), "model", "float16"))

    key = await kept(states, context, "late")

    assert open_states.memory.keys() == []
    assert redis_server.ask("EXISTS", key) == 0


async def test_a_load_during_a_deletion_is_answered_and_not_kept(open_states, new_context):
    states = open_states(0.0)
    key = await kept(states, new_context(), "loading")
    open_states.memory.drop(key)
    loading = asyncio.create_task(states.find(key, new_context()))
    for _ in range(2):  # `find`, then the load that it starts, which waits for Redis
        await asyncio.sleep(0)

    open_states.recent_deletions.add(key)

    assert (await loading).embedding.original_size == (30, 40)
    assert open_states.memory.keys() == []


async def clicked(states, open_states, key, new_context):
    await states.find(key, new_context())
    await open_states.background.aclose(5.0)


async def asked_for(states, _, key, __):
    await states.contains(key)


async def checked(states, _, key, __):
    await states.check(key)


@pytest.mark.parametrize("comes", [clicked, asked_for, checked])
async def test_an_upload_during_an_outage_replaces_the_tombstone_of_an_earlier_deletion(
    open_states, elsewhere, redis_server, way, new_context, comes
):
    states = open_states(0.0)
    name = f"uploaded after its deletion, then {comes.__name__}"
    await elsewhere.delete(key_of(name))
    way.refuse()
    key = await kept(states, new_context(), name)
    way.accept()

    await comes(states, open_states, key, new_context)

    assert open_states.memory.keys() == [key]
    assert redis_server.ask("EXISTS", key) == 1
    assert await elsewhere.tombstone(key) == ""


@pytest.mark.parametrize("comes", [clicked, asked_for, checked])
async def test_an_upload_during_an_outage_is_removed_after_a_later_deletion(
    open_states, elsewhere, redis_server, way, new_context, comes
):
    states = open_states(0.0)
    way.refuse()
    key = await kept(states, new_context(), f"deleted after its upload, then {comes.__name__}")
    await elsewhere.delete(key)
    way.accept()

    await comes(states, open_states, key, new_context)

    assert open_states.memory.keys() == []
    assert redis_server.ask("EXISTS", key) == 0
    assert await elsewhere.tombstone(key)


async def test_an_upload_in_progress_stores_nothing_of_an_image_deleted_without_a_message(
    open_states, elsewhere, redis_server, new_context
):
    states, key = open_states(0.0), key_of("under way")
    await elsewhere.delete(key)  # the upload has read this tombstone and may replace it
    context, tombstone = new_context(), await states.tombstone(key)

    await elsewhere.delete(key)  # the upload has not read this one
    await add(states, context, "under way", tombstone=tombstone)

    assert open_states.memory.keys() == []
    assert redis_server.ask("EXISTS", key) == 0
    assert await elsewhere.tombstone(key) not in ("", tombstone)


async def test_an_upload_that_is_being_stored_does_not_count_as_deleted(
    open_states, elsewhere, redis_server, new_context
):
    states, key = open_states(0.0), key_of("being stored")
    await elsewhere.delete(key)
    context, tombstone = new_context(), await states.tombstone(key)

    redis_server.pause()
    try:
        adding = asyncio.create_task(add(states, context, "being stored", tombstone=tombstone))
        await eventually(lambda: open_states.memory.keys() == [key], timeout_s=WAIT_S)
        asking = asyncio.create_task(states.contains(key))
        await asyncio.sleep(0)
    finally:
        redis_server.resume()

    assert await asking == ("memory", ImageInfo((30, 40), 1, "full"))
    await adding
    assert open_states.memory.keys() == [key]
    assert redis_server.ask("EXISTS", key) == 1


async def test_the_second_task_that_finds_a_tombstone_does_not_remove_the_next_upload(
    open_states, elsewhere, redis_server, new_context
):
    states = open_states(0.0)
    key = await kept(states, new_context(), "found twice")
    await elsewhere.delete(key)

    redis_server.pause()
    try:
        second = asyncio.create_task(states.check(key))
        await asyncio.sleep(0)
        open_states.recent_deletions.add(key)  # as the first task does
        uploaded = monotonic()
    finally:
        redis_server.resume()
    await second

    assert not open_states.recent_deletions.was_deleted_since(key, uploaded)


async def test_a_deletion_removes_the_image_from_memory_before_redis_answers(open_states, redis_server, new_context):
    states = open_states(0.0)
    key = await kept(states, new_context(), "on its way")

    redis_server.pause()
    try:
        deleting = asyncio.create_task(states.delete(key))
        await eventually(lambda: open_states.memory.keys() == [], timeout_s=WAIT_S)
    finally:
        redis_server.resume()

    assert await deleting is True
    assert redis_server.ask("EXISTS", key, tombstone_key(key)) == 1


@pytest.mark.parametrize("comes", [clicked, asked_for, checked])
@pytest.mark.parametrize("is_deleted", [False, True])
async def test_an_unshared_upload_is_kept_when_many_other_images_are_deleted(
    open_states, elsewhere, redis_server, way, new_context, comes, is_deleted
):
    states = open_states(0.0)
    way.refuse()
    key = await kept(states, new_context(), f"old, {is_deleted}, then {comes.__name__}")
    if is_deleted:
        await elsewhere.delete(key)
    way.accept()
    began = monotonic()
    for number in range(4):
        open_states.recent_deletions.add(key_of(f"another {number}"))
    assert open_states.recent_deletions.was_deleted_since(key_of("of all that are as old"), began)

    await comes(states, open_states, key, new_context)

    assert open_states.memory.keys() == ([] if is_deleted else [key])
    assert redis_server.ask("EXISTS", key) == (0 if is_deleted else 1)


async def test_an_unshared_upload_is_soon_stored_again(open_states, redis_server, way, new_context, monkeypatch):
    monkeypatch.setattr("service.inference.shared_embeddings.UNSHARED_RETRY_S", 0.0)
    states = open_states(1000.0)
    way.refuse()
    key = await kept(states, new_context(), "offered again")
    way.accept()

    await clicked(states, open_states, key, new_context)

    assert redis_server.ask("EXISTS", key) == 1


async def test_a_check_without_redis_raises_cache_unavailable(open_states, way, new_context):
    states = open_states(0.0)
    way.refuse()
    key = await kept(states, new_context(), "unchecked")

    with pytest.raises(CacheUnavailable):
        await states.check(key)


async def test_a_dropped_renewal_is_repeated_with_the_next_click(open_states, redis_server, new_context):
    states, go = open_states(1000.0), asyncio.Event()
    key = await kept(states, new_context(), "no room")
    redis_server.ask("PEXPIRE", key, "60000")
    states._shared._renewed_at.clear()
    while open_states.background.start(wait_for(go)):
        pass
    await states.find(key, new_context())
    go.set()
    await open_states.background.aclose(5.0)

    await clicked(states, open_states, key, new_context)

    assert int(redis_server.ask("PTTL", key)) > 60_000


async def wait_for(event):
    await event.wait()


async def test_the_states_of_a_removed_model_leave_memory_and_none_is_kept_or_used_any_more(
    open_states, runtime, redis_server, new_context
):
    states, of_others = open_states(0.0), key_of("of another model")
    tokens = np.zeros((4096, 256), np.float16)
    key = embedding_key(image_hash(b"mine"), runtime.fingerprint, "float16")
    await states.add(key, ImageEmbedding(tokens, (30, 40)), new_context(), tombstone="")
    await kept(states, new_context(), "of another model")

    states.retire()

    assert open_states.memory.keys() == [of_others]
    assert states.peek(of_others) is None
    assert await states.find(of_others, new_context()) is not None  # from Redis, for a request that began before
    later = embedding_key(image_hash(b"later"), runtime.fingerprint, "float16")
    await states.add(later, ImageEmbedding(tokens, (30, 40)), new_context(), tombstone="")
    assert open_states.memory.keys() == [of_others]
    assert redis_server.ask("EXISTS", later) == 1
    open_states.recent_deletions.add(of_others)  # the removed model takes no part in deletions
    assert open_states.memory.keys() == [of_others]


async def test_an_error_of_the_checks_after_an_outage_is_logged_and_closing_raises_none(
    open_states, way, new_context, caplog
):
    states = open_states(0.0)
    way.refuse()
    await kept(states, new_context(), "to be told")
    way.accept()
    listener = DeletionSubscriber(
        open_states.deletions,
        served=lambda: {"model": states},
        recent_deletions=open_states.recent_deletions,
        dtype="float16",
    )

    open_states.executor.close()  # no embedding can be encoded from now on
    with caplog.at_level(logging.ERROR):
        listener.start()
        await eventually(lambda: "asking for missed deletions failed" in caplog.text, timeout_s=WAIT_S)
        await listener.aclose()


def redis_hits(metrics):
    return metrics.registry.get_sample_value("edgesam_cache_lookups_total", {"tier": "redis", "outcome": "hit"})


async def test_a_prompt_joins_the_load_that_was_started_ahead_of_it(open_states, redis_server, new_context, metrics):
    states = open_states(1000.0)
    key = await kept(states, new_context(), "ahead")
    open_states.memory.drop(key)
    redis_server.pause()
    try:
        started = states.prefetch(key, new_context())
        prompt = asyncio.create_task(states.find(key, new_context()))
        await asyncio.sleep(0)
        again = states.prefetch(key, new_context())
    finally:
        redis_server.resume()
    state = await prompt
    await open_states.background.aclose(5.0)

    assert (started, again) == (True, True)
    assert open_states.memory.glance(key) is state
    assert redis_hits(metrics) == 1


async def test_few_images_are_loaded_ahead_at_a_time(open_states, redis_server, new_context):
    states = open_states(1000.0)
    keys = [await kept(states, new_context(), f"one of many {number}") for number in range(MAX_PREFETCHES + 1)]
    for key in keys:
        open_states.memory.drop(key)

    started = [states.prefetch(key, new_context()) for key in keys]
    await eventually(lambda: all(open_states.memory.glance(key) for key in keys[:-1]), timeout_s=WAIT_S)
    await open_states.background.aclose(5.0)

    assert started == [True] * MAX_PREFETCHES + [False]
    assert open_states.memory.glance(keys[-1]) is None
    assert states.prefetch(keys[-1], new_context())


async def test_an_image_that_is_asked_for_several_times_is_loaded_ahead_once(open_states, new_context, metrics):
    states = open_states(1000.0)
    keys = [await kept(states, new_context(), f"asked for {number}") for number in range(MAX_PREFETCHES)]
    for key in keys:
        open_states.memory.drop(key)

    started = [states.prefetch(key, new_context()) for key in [keys[0]] * 100 + keys]
    await open_states.background.aclose(5.0)

    assert started == [True] * len(started)
    assert metrics.registry.get_sample_value("edgesam_rejected_total", {"reason": "background"}) == 0
    assert all(open_states.memory.glance(key) for key in keys)


async def test_an_image_that_is_nowhere_or_unreachable_is_not_loaded_ahead_and_costs_no_error(
    open_states, way, new_context, caplog
):
    states = open_states(1000.0)

    assert states.prefetch(key_of("nowhere"), new_context())
    await open_states.background.aclose(5.0)
    way.refuse()
    assert states.prefetch(key_of("nowhere"), new_context())
    await open_states.background.aclose(5.0)

    assert open_states.memory.keys() == []
    assert "background work failed" not in caplog.text


async def test_an_image_that_is_deleted_during_the_load_is_not_kept(open_states, redis_server, new_context):
    states = open_states(1000.0)
    key = await kept(states, new_context(), "deleted during the load")
    open_states.memory.drop(key)
    redis_server.pause()
    try:
        assert states.prefetch(key, new_context())
        await asyncio.sleep(0)
        deleted = asyncio.create_task(states.delete(key))
        await asyncio.sleep(0)
    finally:
        redis_server.resume()
    await deleted
    await open_states.background.aclose(5.0)

    assert open_states.memory.glance(key) is None
    with pytest.raises(EmbeddingNotFound):
        await states.find(key, new_context())
