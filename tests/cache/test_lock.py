"""The lock that lets one replica encode an image."""

import asyncio
import contextlib
import uuid

import pytest
from support.redis_server import RedisServer, eventually, free_port

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.lock import RedisLock
from service.errors import CacheUnavailable


@pytest.fixture
def open_lock(open_client, metrics):
    """A function that returns a lock over a client of its own, as another replica would have."""

    def open_(url, *, ttl_s=60.0, **bounds):
        return RedisLock(open_client(url, **bounds), CircuitBreaker(metrics=metrics), ttl_s=ttl_s)

    return open_


def key():
    return f"edgesam:test:{uuid.uuid4().hex}"


async def test_one_of_two_owners_gets_the_lock(open_lock, redis_server):
    first, second = open_lock(redis_server.url), open_lock(redis_server.url)
    name = key()

    token = await first.acquire(name)

    assert token is not None
    assert await second.acquire(name) is None
    assert await first.acquire(name) is None  # nor the owner once more


async def test_of_many_simultaneous_owners_exactly_one_gets_the_lock(open_lock, redis_server):
    locks = [open_lock(redis_server.url) for _ in range(8)]
    name = key()

    tokens = await asyncio.gather(*(lock.acquire(name) for lock in locks))

    assert sum(token is not None for token in tokens) == 1


async def test_keys_have_locks_of_their_own(open_lock, redis_server):
    lock = open_lock(redis_server.url)

    assert await lock.acquire(key()) is not None
    assert await lock.acquire(key()) is not None


async def test_a_released_lock_is_free(open_lock, redis_server):
    first, second = open_lock(redis_server.url), open_lock(redis_server.url)
    name = key()
    token = await first.acquire(name)

    await first.release(name, token)

    assert await second.acquire(name) is not None


async def test_only_the_owner_releases(open_lock, redis_server):
    first, second = open_lock(redis_server.url), open_lock(redis_server.url)
    name = key()
    await first.acquire(name)

    await second.release(name, "0" * 32)

    assert await second.acquire(name) is None


async def test_the_lock_of_a_lost_owner_expires_after_its_time_to_live(open_lock, redis_server):
    lost, waiting = open_lock(redis_server.url, ttl_s=0.05), open_lock(redis_server.url)
    name = key()
    lost_token = await lost.acquire(name)

    await eventually(lambda: redis_server.ask("EXISTS", f"lock:{name}") == 0)
    token = await waiting.acquire(name)
    is_still_its = await lost.renew(name, lost_token)
    await lost.release(name, lost_token)

    assert token is not None
    assert not is_still_its
    assert await waiting.renew(name, token)  # the late release did not take it away


async def test_renewing_restarts_the_time_to_live(open_lock, redis_server):
    lock = open_lock(redis_server.url, ttl_s=60.0)
    name = key()
    token = await lock.acquire(name)
    redis_server.ask("PEXPIRE", f"lock:{name}", 5000)

    assert await lock.renew(name, token) is True

    assert 50_000 < redis_server.ask("PTTL", f"lock:{name}") <= 60_000


async def test_only_the_owner_renews(open_lock, redis_server):
    lock = open_lock(redis_server.url, ttl_s=60.0)
    name = key()
    await lock.acquire(name)
    redis_server.ask("PEXPIRE", f"lock:{name}", 5000)

    assert await lock.renew(name, "0" * 32) is False

    assert redis_server.ask("PTTL", f"lock:{name}") <= 5000


async def test_renewing_does_not_restore_an_expired_lock(open_lock, redis_server):
    lock = open_lock(redis_server.url)
    name = key()

    assert await lock.renew(name, "0" * 32) is False

    assert redis_server.ask("EXISTS", f"lock:{name}") == 0


async def test_without_redis_every_call_is_unavailable(open_lock):
    lock = open_lock(f"redis://127.0.0.1:{free_port()}")

    with pytest.raises(CacheUnavailable):
        await lock.acquire("a")
    with pytest.raises(CacheUnavailable):
        await lock.renew("a", "token")
    with pytest.raises(CacheUnavailable):
        await lock.release("a", "token")


@pytest.mark.alone
async def test_a_silent_redis_costs_one_bounded_wait(open_lock):
    with RedisServer() as server:
        lock = open_lock(server.url, connect_timeout_s=0.05, read_timeout_s=0.1)
        server.pause()

        async with asyncio.timeout(2.0):
            with pytest.raises(CacheUnavailable):
                await lock.acquire("a")


async def test_a_caller_that_is_cancelled_while_it_takes_the_lock_does_not_keep_it(open_lock, redis_server):
    lock = open_lock(redis_server.url, ttl_s=600.0)

    for iterations in range(20):  # cancels at another step each time
        name = key()
        taking = asyncio.create_task(lock.acquire(name))
        for _ in range(iterations):
            await asyncio.sleep(0)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if (token := await taking) is not None:
                await lock.release(name, token)

        async with asyncio.timeout(10.0):
            while await lock.acquire(name) is None:  # noqa: ASYNC110 - a server decides
                await asyncio.sleep(0.01)
