"""The Redis tier and the lock over a cluster: three masters on this machine."""

import asyncio
import re
import time

import pytest
from support.redis_server import RedisCluster, free_port

import service.cache.redis.acl
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.lock import RedisLock
from service.errors import CacheUnavailable

pytestmark = pytest.mark.slow

DOCUMENTED = service.cache.redis.acl.__doc__
USER_RULE = " ".join(
    [
        *re.search(r"user edgesam on .*\n.*", DOCUMENTED)[0].replace("PASSWORD", "s3cret").split(),
        re.search(r"`(\S+ \S+)` for a\s+cluster", DOCUMENTED)[1],
    ]
)


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster(acl=[USER_RULE]) as running:
        yield running


def url_of(cluster):
    return cluster.url.replace("://", "://edgesam:s3cret@")


@pytest.fixture
def breaker(metrics):
    return CircuitBreaker(metrics=metrics)


async def test_values_are_spread_over_the_masters_and_read_back(cluster, open_cache):
    cache = open_cache(url_of(cluster))
    names = [f"edgesam:test:{number}" for number in range(60)]

    await asyncio.gather(*(cache.put(name, memoryview(name.encode())) for name in names))

    assert [await cache.get(name) for name in names] == [name.encode() for name in names]
    assert all(node.ask("DBSIZE") > 5 for node in cluster.nodes)
    assert await cache.contains(names[0])
    assert all([await cache.delete(name) for name in names])
    assert await cache.get(names[0]) is None


async def test_several_values_are_stored_together_on_several_masters(cluster, open_cache):
    cache = open_cache(url_of(cluster))
    names = [f"edgesam:several:{number}" for number in range(20)]

    await cache.put_encoded([(name, cache.encode(memoryview(name.encode()))) for name in names])

    assert [await cache.get(name) for name in names] == [name.encode() for name in names]


async def test_large_values_are_stored_and_read(cluster, open_cache):
    cache = open_cache(url_of(cluster))
    value = memoryview(bytes(2**21))

    await cache.put("edgesam:large", value)

    assert await cache.get("edgesam:large") == value


async def test_locks_work_on_every_master(cluster, open_client, breaker):
    first = RedisLock(open_client(url_of(cluster)), breaker, ttl_s=60.0)
    second = RedisLock(open_client(url_of(cluster)), breaker, ttl_s=60.0)

    for number in range(12):
        name = f"edgesam:lock:{number}"
        token = await first.acquire(name)
        assert token is not None
        assert await second.acquire(name) is None
        assert await first.renew(name, token)
        await second.release(name, "0" * 32)
        assert await second.acquire(name) is None
        await first.release(name, token)
        assert await second.acquire(name) is not None


async def test_a_stopped_cluster_is_unavailable(open_cache):
    cache = open_cache(f"redis+cluster://127.0.0.1:{free_port()}")

    with pytest.raises(CacheUnavailable):
        await cache.get("edgesam:a")


async def test_a_single_server_under_a_cluster_address_is_unavailable(redis_server, open_cache):
    cache = open_cache(redis_server.url.replace("redis:", "redis+cluster:"))

    with pytest.raises(CacheUnavailable):
        await cache.get("edgesam:a")


@pytest.mark.alone
async def test_a_silent_master_costs_bounded_waits_and_other_masters_answer(cluster, open_cache, metrics):
    breaker = CircuitBreaker(failures=1000, metrics=metrics)
    cache = open_cache(url_of(cluster), breaker=breaker, connect_timeout_s=0.1, read_timeout_s=0.3)
    names = [f"edgesam:test:{number}" for number in range(12)]
    for name in names:
        await cache.put(name, memoryview(b"value"))
    cluster.nodes[1].pause()

    outcomes, waits_s = [], []
    for name in names:
        start = time.perf_counter()
        try:
            outcomes.append(bytes(await cache.get(name)))
        except CacheUnavailable:
            outcomes.append(None)
        waits_s.append(time.perf_counter() - start)
    cluster.nodes[1].resume()

    assert max(waits_s) < 0.7 + 0.5
    assert None in outcomes
    assert b"value" in outcomes
