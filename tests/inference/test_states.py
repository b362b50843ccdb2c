"""What memory serves stays in Redis, and what Redis lost comes back."""

import asyncio
from time import monotonic

import numpy as np
import pytest

from service.cache.breaker import CircuitBreaker
from service.cache.codecs import EmbeddingCodec
from service.cache.deletions import Deletions
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache, connect
from service.errors import EmbeddingNotFound
from service.inference.background import BackgroundWork
from service.inference.forgotten import ForgottenPictures
from service.inference.states import ImageStates
from service.inference.workers import Workers
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash


@pytest.fixture
async def open_states(runtime, redis_server, metrics):
    """Image states over the real Redis, renewing as often as is asked for."""
    workers, background = Workers("test", 1), BackgroundWork(8, metrics)
    client = connect(redis_server.url, read_timeout_s=5.0)
    breaker = CircuitBreaker(metrics=metrics)
    shared = RedisCache(
        client,
        EmbeddingCodec("model"),
        ttl_s=1000.0,
        breaker=breaker,
        metrics=metrics,
        executor=workers.executor,
    )
    memory = MemoryCache(64 << 20, 1000.0, metrics)
    deletions, forgotten = Deletions(client, breaker, mark_ttl_s=1000.0), ForgottenPictures()

    def open_(renew_every_s):
        return ImageStates(
            memory,
            shared,
            deletions=deletions,
            forgotten=forgotten,
            runtime=runtime,
            workers=workers,
            background=background,
            renew_every_s=renew_every_s,
        )

    open_.background, open_.forgotten, open_.memory = background, forgotten, memory
    yield open_
    await background.aclose(5.0)
    await client.aclose()
    workers.close()


async def kept(states, metrics, name, began=None):
    """A picture in memory and in Redis; its key."""
    key = embedding_key(image_hash(name.encode()), "model", "float16")
    tokens = np.random.default_rng(0).normal(0, 1, (4096, 256)).astype(np.float16)
    embedding = ImageEmbedding(tokens, (30, 40))
    began = began or monotonic()
    await states.prepare(key, embedding, metrics.stages(), began=began)
    await states.share(key, embedding, metrics.stages(), began=began)
    return key


async def test_a_picture_in_use_is_renewed_in_redis_behind_the_answer(open_states, redis_server, metrics):
    states = open_states(0.0)
    key = await kept(states, metrics, "renewed")
    redis_server.ask("PEXPIRE", key, "60000")

    await states.find(key, metrics.stages())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("PTTL", key)) > 60_000


async def test_a_picture_in_use_that_redis_lost_is_stored_again(open_states, redis_server, metrics):
    states = open_states(0.0)
    key = await kept(states, metrics, "lost")
    redis_server.ask("UNLINK", key)

    await states.find(key, metrics.stages())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("EXISTS", key)) == 1


async def test_one_caller_s_clicks_do_not_keep_another_s_picture_from_being_renewed(open_states, redis_server, metrics):
    states = open_states(0.0)
    key = await kept(states, metrics, "shared")
    redis_server.ask("PEXPIRE", key, "60000")
    redis_server.pause()
    try:
        for caller in ["a"] * 8 + ["b"]:
            await states.find(key, metrics.stages(), caller=caller)
    finally:
        redis_server.resume()
    await open_states.background.aclose(5.0)

    # Six of the eight places are a's; two were refused, and neither of them was the other's.
    assert metrics.registry.get_sample_value("edgesam_rejected_total", {"reason": "background"}) == 2


async def test_a_picture_is_not_renewed_with_every_click(open_states, redis_server, metrics):
    states = open_states(1000.0)
    key = await kept(states, metrics, "often")
    redis_server.ask("PEXPIRE", key, "60000")

    for _ in range(3):
        await states.find(key, metrics.stages())
    await open_states.background.aclose(5.0)

    assert int(redis_server.ask("PTTL", key)) <= 60_000


@pytest.fixture
async def elsewhere(redis_server, metrics):
    """Deletions of another replica, which nobody here listens to."""
    client = connect(redis_server.url, read_timeout_s=5.0)
    yield Deletions(client, CircuitBreaker(metrics=metrics), mark_ttl_s=1000.0)
    await client.aclose()


async def test_a_picture_that_another_replica_deleted_is_not_stored_again_although_nobody_told(
    open_states, elsewhere, redis_server, metrics
):
    states = open_states(0.0)
    key = await kept(states, metrics, "deleted elsewhere")
    assert await elsewhere.delete(key) is True

    await states.find(key, metrics.stages())  # it is in memory, and the click does not wait for Redis
    await open_states.background.aclose(5.0)

    assert redis_server.ask("EXISTS", key) == 0
    with pytest.raises(EmbeddingNotFound):
        await states.find(key, metrics.stages())


async def test_looking_up_a_picture_that_another_replica_deleted_finds_none(open_states, elsewhere, metrics):
    states = open_states(1000.0)
    key = await kept(states, metrics, "asked for")
    await elsewhere.delete(key)

    assert await states.contains(key) is None
    assert await states.contains(key) is None


async def test_a_picture_that_is_embedded_anew_after_its_deletion_stays(open_states, elsewhere, redis_server, metrics):
    states = open_states(0.0)
    key = await kept(states, metrics, "embedded anew")
    await elsewhere.delete(key)
    await states.contains(key)

    assert await kept(states, metrics, "embedded anew") == key
    redis_server.ask("UNLINK", key)  # lost this time
    await states.find(key, metrics.stages())
    await open_states.background.aclose(5.0)

    assert redis_server.ask("EXISTS", key) == 1


async def test_work_that_began_before_a_deletion_keeps_nothing(open_states, redis_server, metrics):
    states = open_states(0.0)
    began = monotonic()
    open_states.forgotten.add(embedding_key(image_hash(b"late"), "model", "float16"))

    key = await kept(states, metrics, "late", began=began)

    assert open_states.memory.keys() == []
    assert redis_server.ask("EXISTS", key) == 0


async def test_what_a_load_from_redis_brings_is_answered_and_not_kept_when_it_was_deleted_meanwhile(
    open_states, metrics
):
    states = open_states(0.0)
    key = await kept(states, metrics, "loading")
    open_states.memory.drop(key)
    loading = asyncio.create_task(states.find(key, metrics.stages()))
    for _ in range(2):  # `find`, then the load that it starts, which waits for Redis
        await asyncio.sleep(0)

    open_states.forgotten.add(key)

    assert (await loading).embedding.original_size == (30, 40)
    assert open_states.memory.keys() == []
