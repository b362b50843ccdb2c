"""The record in Redis of the models whose embeddings it may have."""

import pytest
from support.redis_server import RedisServer

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.models import KEY, MAX_MODELS, ModelRegistry
from service.errors import CacheUnavailable
from service.sam.embedding import embedding_key, variant_key

A, B = "a" * 16, "b" * 16


def key_of(fingerprint, dtype="float16", namespace=""):
    return embedding_key("0" * 64, fingerprint, dtype, namespace)


@pytest.fixture
async def open_registry(redis_server, metrics):
    """A function that returns the registry of one replica on an empty record."""
    redis_server.ask("UNLINK", KEY)
    clients = []

    def open_(url=redis_server.url, ttl_s=1000.0):
        clients.append(connect(url, read_timeout_s=5.0))
        return ModelRegistry(clients[-1], CircuitBreaker(failures=1000, metrics=metrics), ttl_s=ttl_s)

    yield open_
    for client in clients:
        await client.aclose()


async def test_a_replica_reads_the_models_of_all_replicas(open_registry):
    first, second = open_registry(), open_registry()

    await first.register(key_of(A))
    await second.register(variant_key(key_of(f"{B}-bfloat16", "float32", "team"), "~levels=full"))

    assert await first.models() == await second.models() == [(A, "float16"), (f"{B}-bfloat16", "float32")]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
async def test_each_number_format_is_recorded(open_registry, dtype):
    await open_registry().register(key_of(A, dtype))

    assert await open_registry().models() == [(A, dtype)]


async def test_a_model_is_recorded_once_in_a_while_and_again_after_redis_lost_it(open_registry, redis_server):
    registry, often = open_registry(), open_registry(ttl_s=0.0001)
    await registry.register(key_of(A))
    redis_server.ask("UNLINK", KEY)

    await registry.register(key_of(A))
    assert await registry.models() == []

    await often.register(key_of(A))
    await often.register(key_of(B))
    redis_server.ask("UNLINK", KEY)
    await open_registry().register(key_of(A))
    assert await registry.models() == [(A, "float16")]


async def test_a_model_that_is_not_used_leaves_the_record_and_the_record_itself_expires(open_registry, redis_server):
    await open_registry(ttl_s=1e-6).register(key_of(A))

    await open_registry().register(key_of(B))

    assert await open_registry().models() == [(B, "float16")]
    assert 1_400_000 < int(redis_server.ask("PTTL", KEY)) <= 1_500_000


async def test_the_shorter_time_to_live_of_another_replica_does_not_shorten_the_record(open_registry, redis_server):
    await open_registry(ttl_s=1000.0).register(key_of(A))
    await open_registry(ttl_s=1.0).register(key_of(A))

    assert int(redis_server.ask("PTTL", KEY)) > 1_400_000


async def test_the_record_is_bounded_and_text_of_another_form_is_left_out(open_registry, redis_server):
    words = [f"{number:016x}:float16=9999999999999" for number in range(MAX_MODELS + 10)]
    redis_server.ask("SET", KEY, " ".join(words))
    await open_registry().register(key_of(A))
    assert len(await open_registry().models()) == MAX_MODELS
    assert (A, "float16") in await open_registry().models()

    redis_server.ask("SET", KEY, f"x:float16=9 {A}:float64=9 {A}:float16 \xff {B}:float16=9 */../:float16=1")
    assert await open_registry().models() == [(B, "float16")]


async def test_without_rights_the_record_is_empty_and_no_request_fails(open_registry, metrics):
    with RedisServer(acl=["user edgesam on >pw ~other:* -@all +get +eval +ping"]) as server:
        registry = open_registry(f"redis://edgesam:pw@127.0.0.1:{server.port}")

        await registry.register(key_of(A))

        assert await registry.models() == []


async def test_a_redis_that_does_not_answer_is_unknown_to_deletions_and_to_the_caller(open_registry):
    with RedisServer() as server:
        registry = open_registry(server.url)
        server.stop()

        for _ in range(2):  # a failed record is tried again
            with pytest.raises(CacheUnavailable):
                await registry.register(key_of(A))
        with pytest.raises(CacheUnavailable):
            await registry.models()
