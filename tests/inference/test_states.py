"""What memory serves stays in Redis, and what Redis lost comes back."""

import numpy as np
import pytest

from service.cache.breaker import CircuitBreaker
from service.cache.codecs import EmbeddingCodec
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache, connect
from service.inference.background import BackgroundWork
from service.inference.states import ImageStates
from service.inference.workers import Workers
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash


@pytest.fixture
async def open_states(runtime, redis_server, metrics):
    """Image states over the real Redis, renewing as often as is asked for."""
    workers, background = Workers("test", 1), BackgroundWork(8, metrics)
    client = connect(redis_server.url, read_timeout_s=5.0)
    shared = RedisCache(
        client,
        EmbeddingCodec("model"),
        ttl_s=1000.0,
        breaker=CircuitBreaker(metrics=metrics),
        metrics=metrics,
        executor=workers.executor,
    )
    memory = MemoryCache(64 << 20, 1000.0, metrics)

    def open_(renew_every_s):
        return ImageStates(
            memory, shared, runtime=runtime, workers=workers, background=background, renew_every_s=renew_every_s
        )

    open_.background = background
    yield open_
    await background.aclose(5.0)
    await client.aclose()
    workers.close()


async def kept(states, metrics, name):
    """A picture in memory and in Redis; its key."""
    key = embedding_key(image_hash(name.encode()), "model", "float16")
    tokens = np.random.default_rng(0).normal(0, 1, (4096, 256)).astype(np.float16)
    embedding = ImageEmbedding(tokens, (30, 40))
    await states.prepare(key, embedding, metrics.stages())
    await states.share(key, embedding, metrics.stages())
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
