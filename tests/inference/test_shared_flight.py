"""Single flight over Redis: one replica computes, the others wait for its value, and every wait is bounded."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from support.redis_server import RedisServer, eventually, free_port

from service.cache.codecs import MaskCodec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.lock import RedisLock
from service.cache.redis.tier import RedisCache
from service.inference.scheduling.singleflight import Lease, SharedFlight
from service.telemetry.metrics import Metrics

TIMINGS = Metrics(CollectorRegistry()).timings()
VALUE = np.full((256, 256), 3.0, np.float32)
PATIENT = {"connect_timeout_s": 10.0, "read_timeout_s": 10.0, "queue_timeout_s": 20.0}
QUICK = {"connect_timeout_s": 0.05, "read_timeout_s": 0.05, "queue_timeout_s": 0.2}


@dataclass(frozen=True)
class Replica:
    cache: RedisCache
    lock: RedisLock
    flight: SharedFlight


@pytest.fixture
async def open_replica(metrics):
    """A function that returns a replica: a client, a breaker and a cache of its own on one Redis."""
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(2))

        def open_(url, *, ttl_s=300.0, bounds=PATIENT):
            client = connect(url, **bounds)
            stack.push_async_callback(client.aclose)
            breaker = CircuitBreaker(failures=3, open_s=300.0, metrics=metrics)
            cache = RedisCache(
                client, MaskCodec("0" * 16), ttl_s=600.0, breaker=breaker, metrics=metrics, executor=executor
            )
            lock = RedisLock(client, breaker, ttl_s=ttl_s)
            return Replica(cache, lock, SharedFlight(cache, lock, ttl_s=ttl_s))

        yield open_


def new_key():
    return f"edgesam:test:{uuid.uuid4().hex}"


async def starts_to_wait(replica, server, key, timings=TIMINGS):
    """Return a task that waits in `claim` and has looked for the value at least once."""
    before = looks(server)
    task = asyncio.create_task(replica.flight.claim(key, timings))
    await eventually(lambda: looks(server) > before, timeout_s=60)
    return task


def looks(server):
    """Return the number of EXISTS commands that this Redis has received."""
    stats = server.ask("INFO", "commandstats")
    return stats["cmdstat_exists"]["calls"] if "cmdstat_exists" in stats else 0


async def lose(lease):
    """Stop the renewal of a lease, as when its process is killed. The lock is then neither renewed nor released."""
    lease._renewal.cancel()
    with suppress(asyncio.CancelledError):
        await lease._renewal


async def test_the_second_replica_waits_and_gets_the_value_of_the_first(open_replica, redis_server):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    lease = await first.flight.claim(key, TIMINGS)
    waits = await starts_to_wait(second, redis_server, key)
    assert not waits.done()

    await first.cache.put(key, VALUE)
    await lease.release()

    np.testing.assert_array_equal(await asyncio.wait_for(waits, 60), VALUE)


async def test_waiting_for_another_replica_is_in_the_timings_and_computing_is_not(open_replica, redis_server, metrics):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    computing, waiting = metrics.timings(), metrics.timings()
    lease = await first.flight.claim(key, computing)
    waits = await starts_to_wait(second, redis_server, key, waiting)

    await first.cache.put(key, VALUE)
    await lease.release()
    await asyncio.wait_for(waits, 60)

    assert list(computing.elapsed_ms()) == []
    assert list(waiting.elapsed_ms()) == ["wait"]


async def test_of_many_replicas_one_computes(open_replica, redis_server):
    replicas, key, computed = [open_replica(redis_server.url) for _ in range(6)], new_key(), []

    async def embed(replica):
        claim = await replica.flight.claim(key, TIMINGS)
        if isinstance(claim, Lease):
            computed.append(replica)
            await replica.cache.put(key, VALUE)
            await claim.release()
            return VALUE
        return claim

    async with asyncio.timeout(60):
        values = await asyncio.gather(*(embed(replica) for replica in replicas))

    assert len(computed) == 1
    assert all(np.array_equal(value, VALUE) for value in values)


async def test_a_value_stored_since_the_caller_missed_it_is_not_computed_again(open_replica, redis_server):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    assert await second.cache.get(key) is None
    lease = await first.flight.claim(key, TIMINGS)
    await first.cache.put(key, VALUE)
    await lease.release()

    claim = await second.flight.claim(key, TIMINGS)

    np.testing.assert_array_equal(claim, VALUE)
    assert redis_server.ask("EXISTS", f"lock:{key}") == 0  # and the lock is free


async def test_when_an_owner_releases_its_lock_the_other_computes(open_replica, redis_server):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    lease = await first.flight.claim(key, TIMINGS)
    waits = await starts_to_wait(second, redis_server, key)

    await lease.release()
    claim = await asyncio.wait_for(waits, 60)

    assert isinstance(claim, Lease)
    await claim.release()


async def test_a_lost_owner_blocks_other_replicas_until_its_lock_expires(open_replica, redis_server):
    lost, second, key = open_replica(redis_server.url, ttl_s=0.5), open_replica(redis_server.url), new_key()
    lease = await lost.flight.claim(key, TIMINGS)
    await lose(lease)

    assert redis_server.ask("PTTL", f"lock:{key}") <= 500
    claim = await asyncio.wait_for(second.flight.claim(key, TIMINGS), 60)

    assert isinstance(claim, Lease)
    await claim.release()


async def test_a_running_owner_keeps_its_lock(open_replica, redis_server):
    owner, key = open_replica(redis_server.url), new_key()
    token = await owner.lock.acquire(key)
    redis_server.ask("PEXPIRE", f"lock:{key}", 100_000)

    lease = Lease(owner.lock, key, token, renew_every_s=0.01)

    await eventually(lambda: redis_server.ask("PTTL", f"lock:{key}") > 200_000, timeout_s=60)
    await lease.release()
    assert redis_server.ask("EXISTS", f"lock:{key}") == 0


async def test_a_damaged_value_does_not_end_the_wait_of_other_replicas(open_replica, redis_server):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    lease = await first.flight.claim(key, TIMINGS)
    redis_server.ask("SET", key, b"not a value")
    waits = asyncio.create_task(second.flight.claim(key, TIMINGS))
    await eventually(lambda: redis_server.ask("EXISTS", key) == 0, timeout_s=60)

    await first.cache.put(key, VALUE)
    await lease.release()

    np.testing.assert_array_equal(await asyncio.wait_for(waits, 60), VALUE)


async def test_a_cancelled_waiter_holds_no_lock(open_replica, redis_server):
    first, second, key = open_replica(redis_server.url), open_replica(redis_server.url), new_key()
    lease = await first.flight.claim(key, TIMINGS)
    waits = await starts_to_wait(second, redis_server, key)

    waits.cancel()
    await asyncio.wait([waits])
    await lease.release()
    claim = await asyncio.wait_for(first.flight.claim(key, TIMINGS), 60)

    assert isinstance(claim, Lease)
    await claim.release()


async def test_without_redis_every_replica_computes(open_replica):
    nowhere = f"redis://127.0.0.1:{free_port()}"
    replicas, key = [open_replica(nowhere) for _ in range(2)], new_key()

    async with asyncio.timeout(60):
        claims = [await replica.flight.claim(key, TIMINGS) for replica in replicas for _ in range(4)]

    assert all(isinstance(claim, Lease) for claim in claims)
    for claim in claims:
        await claim.release()


async def test_a_silent_redis_delays_no_replica_for_long(open_replica):
    with RedisServer() as server:
        replica, key = open_replica(server.url, bounds=QUICK), new_key()
        server.pause()

        async with asyncio.timeout(60):
            claims = await asyncio.gather(*(replica.flight.claim(key, TIMINGS) for _ in range(8)))
            for claim in claims:
                await claim.release()

    assert all(isinstance(claim, Lease) for claim in claims)


async def test_a_waiting_replica_computes_when_redis_stops(open_replica):
    with RedisServer() as server:
        first, second, key = open_replica(server.url), open_replica(server.url), new_key()
        lease = await first.flight.claim(key, TIMINGS)
        waits = await starts_to_wait(second, server, key)

        server.kill()
        async with asyncio.timeout(60):
            claim = await waits
            await claim.release()
            await lease.release()

    assert isinstance(claim, Lease)
