"""The Redis tier behind Sentinel: the master is found, lost, and found again elsewhere."""

import asyncio
import os
import signal

import pytest
from support.redis_server import RedisSentinels, free_port, wait_until

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.errors import CacheUnavailable


async def answer(call, timeout_s=20.0):
    """The answer of a call, repeated until the cache is available."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await call()
            except CacheUnavailable:
                await asyncio.sleep(0.02)  # the breaker, or the vote of the sentinels


@pytest.mark.slow
@pytest.mark.alone
async def test_a_master_that_is_lost_is_replaced_by_the_one_that_was_elected(open_cache, metrics):
    with RedisSentinels() as sentinels:
        # One sentinel is silent all the time: the others are asked at the same time.
        os.kill(sentinels.processes[1].pid, signal.SIGSTOP)
        breaker = CircuitBreaker(failures=3, open_s=0.2, metrics=metrics)
        cache = open_cache(sentinels.url, breaker=breaker, connect_timeout_s=0.3, read_timeout_s=0.3)
        await cache.put("edgesam:a", memoryview(b"value"))
        os.kill(sentinels.processes[1].pid, signal.SIGCONT)  # two of three have to agree, and one may be busy

        await asyncio.to_thread(sentinels.master.kill)
        await answer(lambda: cache.put("edgesam:b", memoryview(b"other")))

        wait_until(lambda: sentinels.master_port() == sentinels.replica.port)
        assert await cache.get("edgesam:b") == b"other"
        assert sentinels.replica.ask("EXISTS", "edgesam:b") == 1


async def test_sentinels_that_are_not_there_are_an_unavailable_cache(open_cache):
    cache = open_cache(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/images")

    with pytest.raises(CacheUnavailable):
        await cache.get("edgesam:a")


@pytest.mark.parametrize(
    "address",
    ["redis+sentinel://one:1,two:2", "redis+sentinel:///images", "redis+sentinel://one:x/images",
     "redis+sentinel://one/images/zero", "redis+sentinel://user:s3cret@one@two/images"],
)  # fmt: skip
def test_an_address_without_hosts_or_master_is_refused_and_not_quoted(address):
    with pytest.raises(ValueError, match="sentinels are followed by /MASTER") as refusal:
        connect(address)

    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("hosts", ["one", "one:1,two", "[::1]:5,10.0.0.1:26380"])
async def test_addresses_of_every_form_are_taken(hosts):
    client = connect(f"rediss+sentinel://user:p%40ss@{hosts}/the-master.1/3?sentinel_password=x&ssl_cert_reqs=none")

    assert client._redis.connection_pool.connection_kwargs["password"] == "p@ss"
    assert client._redis.connection_pool.connection_kwargs["db"] == 3
    await client.aclose()
