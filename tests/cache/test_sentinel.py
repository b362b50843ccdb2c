"""The Redis tier behind Sentinel: finding the master, and finding the new one after a failover."""

import asyncio
import os
import signal

import pytest
from support.redis_server import RedisSentinels, free_port, wait_until

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.errors import CacheUnavailable


async def answer(call, timeout_s=20.0):
    """Repeat a call until the cache is available, and return the answer."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await call()
            except CacheUnavailable:
                await asyncio.sleep(0.02)  # the breaker, or the vote of the sentinels


@pytest.mark.slow
@pytest.mark.alone
async def test_after_the_loss_of_the_master_the_elected_one_is_used(open_cache, metrics):
    with RedisSentinels() as sentinels:
        # One sentinel is silent during the whole test. All sentinels are asked at the same time.
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


async def test_unreachable_sentinels_are_an_unavailable_cache(open_cache):
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
