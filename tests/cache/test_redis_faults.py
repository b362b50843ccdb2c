"""The Redis tier with a Redis that is stopped, silent or restarted, and with a server that is not Redis."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from support.redis_server import RedisServer, eventually, free_port

from service.cache.redis.breaker import CircuitBreaker
from service.errors import CacheUnavailable

pytestmark = pytest.mark.alone

# The default bounds of the service, and the delay that a busy machine may add to them.
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, QUEUE_TIMEOUT_S = 0.05, 0.1, 0.5
DEADLINE_S = CONNECT_TIMEOUT_S + 2 * READ_TIMEOUT_S
SLACK_S = 0.5


@pytest.fixture
def open_hasty(open_cache, metrics):
    """A function that returns a Redis tier with the default bounds."""

    def open_(url, *, failures=5, open_s=60.0, max_connections=8):
        return open_cache(
            url,
            breaker=CircuitBreaker(failures=failures, open_s=open_s, metrics=metrics),
            max_connections=max_connections,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            queue_timeout_s=QUEUE_TIMEOUT_S,
        )

    return open_


async def fail(cache, verb="get"):
    """Return the seconds until a call raised CacheUnavailable."""
    calls = {
        "get": lambda: cache.get("edgesam:a"),
        "put": lambda: cache.put("edgesam:a", memoryview(bytes(2**21))),
        "delete": lambda: cache.delete("edgesam:a"),
        "contains": lambda: cache.contains("edgesam:a"),
    }
    start = time.perf_counter()
    with pytest.raises(CacheUnavailable) as failure:
        await calls[verb]()
    assert failure.value.retry_after_s is not None
    return time.perf_counter() - start


async def reach(call, timeout_s=10.0):
    """Repeat a call until the cache is available, and return the answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await call()
        except CacheUnavailable:
            assert time.monotonic() < deadline, "the cache was not available in time"
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("verb", ["get", "put", "delete", "contains"])
async def test_a_refused_connection_costs_next_to_nothing(open_hasty, lookups, verb):
    cache = open_hasty(f"redis://127.0.0.1:{free_port()}")

    took_s = await fail(cache, verb)

    assert took_s < SLACK_S
    assert lookups("redis", "error") == (1 if verb == "get" else 0)


async def test_a_missing_unix_socket_is_an_unavailable_cache(open_hasty, tmp_path):
    cache = open_hasty(f"unix://{tmp_path}/nothing.sock")

    await fail(cache)


async def test_a_name_that_does_not_resolve_is_an_unavailable_cache(open_hasty):
    cache = open_hasty("redis://no-such-host.invalid:6379")

    took_s = await fail(cache)

    assert took_s < DEADLINE_S + SLACK_S


@pytest.mark.parametrize("address", ["url", "unix_url"])
@pytest.mark.parametrize("verb", ["get", "put", "delete", "contains"])
async def test_a_silent_server_costs_one_bounded_wait(open_hasty, address, verb):
    with RedisServer() as server:
        cache = open_hasty(getattr(server, address))
        await reach(lambda: cache.contains("edgesam:a"))
        server.pause()

        with_a_connection_s = await fail(cache, verb)
        without_one_s = await fail(cache, verb)

        assert with_a_connection_s < DEADLINE_S + SLACK_S
        assert without_one_s < DEADLINE_S + SLACK_S


async def test_a_silent_server_opens_the_breaker(open_hasty):
    with RedisServer() as server:
        cache = open_hasty(server.url, failures=5)
        server.pause()

        for _ in range(5):
            await fail(cache)
        while_open_s = sorted([await fail(cache) for _ in range(200)])

        assert while_open_s[100] < 0.001


async def test_a_put_into_an_open_breaker_encodes_nothing(open_hasty, codec, monkeypatch):
    cache = open_hasty(f"redis://127.0.0.1:{free_port()}", failures=1)
    await fail(cache)
    encoded = []
    monkeypatch.setattr(codec, "encode", lambda value: encoded.append(value) or b"")

    await fail(cache, "put")

    assert encoded == []


async def test_a_resumed_server_is_used_again_after_one_probe(open_hasty, metrics):
    with RedisServer() as server:
        cache = open_hasty(server.url, failures=2, open_s=0.2)
        await reach(lambda: cache.put("edgesam:a", memoryview(b"value")))
        server.pause()
        for _ in range(2):
            await fail(cache)

        server.resume()
        resumed_s = time.monotonic()
        found = await reach(lambda: cache.get("edgesam:a"))

        assert found == b"value"
        assert time.monotonic() - resumed_s < 0.2 + DEADLINE_S + SLACK_S
        assert metrics.registry.get_sample_value("edgesam_redis_breaker_open") == 0


async def test_only_probes_reach_a_silent_server(open_hasty):
    with RedisServer() as server:
        cache = open_hasty(server.url, failures=1, open_s=0.3)
        server.pause()
        await fail(cache)

        waits_s = []
        start = time.monotonic()
        while time.monotonic() - start < 1.0:
            waits_s.append(await fail(cache))
            await asyncio.sleep(0)

        slow = [wait for wait in waits_s if wait > READ_TIMEOUT_S / 2]
        assert 1 <= len(slow) <= 3


async def test_a_killed_and_restarted_server_is_empty_and_no_call_fails_after_it(open_cache, lookups):
    with RedisServer() as server:
        cache = open_cache(server.url)
        await cache.put("edgesam:a", memoryview(b"value"))

        await asyncio.to_thread(server.kill)
        await fail(cache)
        await asyncio.to_thread(server.start)
        found = await cache.get("edgesam:a")
        await cache.put("edgesam:a", memoryview(b"again"))

        assert found is None
        assert await cache.get("edgesam:a") == b"again"
        assert lookups("redis", "miss") == 1


async def test_closed_connections_are_replaced_without_a_failed_call(open_cache):
    with RedisServer() as server:
        cache = open_cache(server.url)
        await cache.put("edgesam:a", memoryview(b"value"))

        await asyncio.to_thread(server.restart)

        assert await cache.get("edgesam:a") is None


async def test_a_lack_of_connections_does_not_open_the_breaker(open_client, metrics):
    with RedisServer() as server:
        client = open_client(server.url, max_connections=1, queue_timeout_s=0.05)
        breaker = CircuitBreaker(failures=1, metrics=metrics)
        await client.call(breaker, "PING")
        server.pause()
        first = asyncio.create_task(client.call(breaker, "PING"))

        others = await asyncio.gather(*(client.call(breaker, "PING") for _ in range(20)), return_exceptions=True)
        server.resume()

        assert all(isinstance(other, CacheUnavailable) for other in others)
        assert await first
        assert not breaker.is_open


async def test_many_callers_of_a_silent_server_wait_about_as_long_as_one(open_hasty):
    with RedisServer() as server:
        cache = open_hasty(server.url)
        server.pause()
        start = time.perf_counter()

        results = await asyncio.gather(*(cache.get("edgesam:a") for _ in range(200)), return_exceptions=True)

        assert all(isinstance(result, CacheUnavailable) for result in results)
        assert time.perf_counter() - start < 2 * DEADLINE_S + SLACK_S


async def test_a_cancelled_caller_does_not_wait_for_a_silent_server(open_hasty):
    with RedisServer() as server:
        cache = open_hasty(server.url)
        await reach(lambda: cache.contains("edgesam:a"))
        server.pause()
        caller = asyncio.create_task(cache.get("edgesam:a"))
        await asyncio.sleep(0)  # lets it start
        start = time.perf_counter()

        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

        assert time.perf_counter() - start < READ_TIMEOUT_S / 2


async def test_a_caller_with_a_shorter_timeout_gets_its_own_timeout(open_hasty):
    with RedisServer() as server:
        cache = open_hasty(server.url)
        server.pause()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await cache.get("edgesam:a")


async def test_a_cancelled_probe_still_closes_the_breaker(open_client, metrics):
    with RedisServer() as server:
        clock_s = [0.0]
        breaker = CircuitBreaker(failures=1, open_s=5.0, metrics=metrics, clock=lambda: clock_s[0])
        client = open_client(server.url)
        breaker.failed()
        clock_s[0] = 5.0
        probe = asyncio.create_task(client.call(breaker, "PING"))
        await asyncio.sleep(0)  # lets it start

        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)

        await eventually(lambda: not breaker.is_open)


@asynccontextmanager
async def foreign_server(answer: bytes | None):
    """A server that is not Redis: it answers every command with the same bytes, or closes at once."""

    async def serve(reader, writer):
        try:
            while answer is not None and await reader.read(65536):
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("login", ["", "user:password@"])
@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*1\r\n:1\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-ERR unknown command\r\n",
        b"$100\r\nhalf a val",
        b"%1\r\n$5\r\nproto\r\n:3\r\n>2\r\n+invalidate\r\n*0\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"\xff" * 1000,
    ],
    ids=repr,
)
async def test_a_server_that_is_not_redis_gives_a_miss_or_an_unavailable_cache(open_hasty, login, answer):
    async with foreign_server(answer) as port:
        cache = open_hasty(f"redis://{login}127.0.0.1:{port}")

        outcomes = await asyncio.gather(*(cache.get("edgesam:a") for _ in range(3)), return_exceptions=True)

        assert all(outcome is None or isinstance(outcome, CacheUnavailable) for outcome in outcomes)
