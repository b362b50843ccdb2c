"""The Redis tier against a Redis that works: time to live, validity, threads, connections, refusals."""

import asyncio
import threading
import uuid

import pytest
from support.redis_server import RedisServer, eventually

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.errors import CacheUnavailable


@pytest.fixture
def breaker(metrics):
    return CircuitBreaker(metrics=metrics)


def key():
    return f"edgesam:test:{uuid.uuid4().hex}"


async def test_the_time_to_live_varies_by_ten_percent(open_cache, redis_server):
    cache = open_cache(redis_server.url, ttl_s=1000.0)
    names = [key() for _ in range(40)]

    for name in names:
        await cache.put(name, memoryview(b"value"))

    lives_ms = [redis_server.ask("PTTL", name) for name in names]
    assert all(890_000 <= life <= 1_100_000 for life in lives_ms)
    assert len({life // 1000 for life in lives_ms}) > 10


async def test_reading_renews_the_time_to_live(open_cache, redis_server):
    cache = open_cache(redis_server.url, ttl_s=1000.0)
    name = key()
    await cache.put(name, memoryview(b"value"))
    redis_server.ask("PEXPIRE", name, 50_000)

    await cache.get(name)

    assert redis_server.ask("PTTL", name) > 800_000


async def test_contains_does_not_renew_the_time_to_live(open_cache, redis_server):
    cache = open_cache(redis_server.url, ttl_s=1000.0)
    name = key()
    await cache.put(name, memoryview(b"value"))
    redis_server.ask("PEXPIRE", name, 50_000)

    await cache.contains(name)

    assert redis_server.ask("PTTL", name) <= 50_000


async def test_an_expired_value_is_a_miss(open_cache, redis_server, lookups):
    cache = open_cache(redis_server.url, ttl_s=0.02)
    name = key()
    await cache.put(name, memoryview(b"value"))

    await eventually(lambda: redis_server.ask("EXISTS", name) == 0)

    assert await cache.get(name) is None
    assert lookups("redis", "miss") == 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a note at all", bytes(10_000)], ids=len)
async def test_invalid_bytes_are_a_miss_and_deleted(open_cache, redis_server, lookups, data):
    cache = open_cache(redis_server.url)
    name = key()
    redis_server.ask("SET", name, data or b"xxxx-")

    assert await cache.get(name) is None

    assert lookups("redis", "error") == 1
    assert lookups("redis", "miss") == 0
    assert redis_server.ask("EXISTS", name) == 0


async def test_a_key_of_another_redis_type_is_unavailable(open_cache, redis_server, breaker):
    cache = open_cache(redis_server.url, breaker=breaker)
    name = key()
    redis_server.ask("LPUSH", name, "a")

    with pytest.raises(CacheUnavailable):
        await cache.get(name)

    assert not breaker.is_open


async def test_a_tier_without_look_ups_counts_none(open_cache, redis_server, lookups):
    cache = open_cache(redis_server.url, lookups=False)
    name = key()

    await cache.get(name)
    await cache.put(name, memoryview(b"value"))
    await cache.get(name)

    assert lookups("redis", "hit") == lookups("redis", "miss") == 0


async def test_values_are_encoded_and_decoded_in_worker_threads(open_cache, redis_server):
    threads = []

    class WatchedCodec:
        def encode(self, value):
            threads.append(threading.current_thread().name)
            return bytes(value)

        def decode(self, data):
            threads.append(threading.current_thread().name)
            return memoryview(data)

    cache = open_cache(redis_server.url, codec=WatchedCodec())
    name = key()

    await cache.put(name, memoryview(b"value"))
    await cache.get(name)

    assert len(threads) == 2
    assert all(thread.startswith("codec") for thread in threads)


async def test_a_burst_opens_no_more_connections_than_allowed(open_cache, redis_server):
    cache = open_cache(redis_server.url, max_connections=2)
    name = key()
    await cache.put(name, memoryview(b"value"))
    before = redis_server.ask("INFO", "stats")["total_connections_received"]

    values = await asyncio.gather(*(cache.get(name) for _ in range(100)))

    asking_for_the_statistics = 1
    opened = redis_server.ask("INFO", "stats")["total_connections_received"] - before - asking_for_the_statistics
    assert all(value == b"value" for value in values)
    assert opened <= 1  # one connection was open already


async def test_the_database_of_the_address_is_used(open_cache, redis_server):
    zero, three = open_cache(redis_server.url), open_cache(redis_server.url + "/3")
    name = key()

    await three.put(name, memoryview(b"value"))

    assert await zero.get(name) is None
    assert await three.get(name) == b"value"


async def test_cancelled_callers_return_at_once_and_cost_no_connection(open_cache, redis_server, breaker):
    cache = open_cache(redis_server.url, breaker=breaker, max_connections=2)
    name = key()
    value = memoryview(bytes(2**20))
    await cache.put(name, value)
    await asyncio.gather(*(cache.get(name) for _ in range(4)))
    before = redis_server.ask("INFO", "stats")["total_connections_received"]

    for iterations in range(150):
        caller = asyncio.create_task(cache.get(name) if iterations % 2 else cache.put(name, value))
        for _ in range(iterations % 25):
            await asyncio.sleep(0)
        caller.cancel()
        outcome = (await asyncio.gather(caller, return_exceptions=True))[0]
        assert outcome is None or outcome == value or isinstance(outcome, asyncio.CancelledError)

    asking_for_the_statistics = 1
    values = await asyncio.gather(*(cache.get(name) for _ in range(10)))
    assert all(found == value for found in values)
    assert redis_server.ask("INFO", "stats")["total_connections_received"] - before - asking_for_the_statistics == 0
    assert not breaker.is_open


async def test_a_full_redis_refuses_writes_and_still_serves_reads(open_cache, breaker, lookups, caplog):
    with RedisServer(arguments=["--maxmemory 8mb", "--maxmemory-policy noeviction"]) as server:
        cache = open_cache(server.url, breaker=breaker)
        await cache.put("edgesam:small", memoryview(b"value"))
        server.ask("CONFIG", "SET", "maxmemory", "1mb")

        for _ in range(10):
            with pytest.raises(CacheUnavailable) as refusal:
                await cache.put("edgesam:large", memoryview(bytes(2**20)))

        assert "OutOfMemory" in type(refusal.value.__cause__).__name__
        assert not breaker.is_open
        assert await cache.get("edgesam:small") == b"value"
        assert lookups("redis", "hit") == 1
        assert [record.message for record in caplog.records if "refuses" in record.message] == [
            "Redis refuses commands: command not allowed when used memory > 'maxmemory'."
        ]


async def test_several_values_are_stored_in_one_round_trip(open_cache, redis_server):
    cache = open_cache(redis_server.url)
    names = [f"edgesam:several:{number}" for number in range(4)]

    await cache.put_encoded([(name, cache.encode(memoryview(name.encode()))) for name in names])

    assert [await cache.get(name) for name in names] == [name.encode() for name in names]
    assert all(50_000 < redis_server.ask("PTTL", name) <= 66_000 for name in names)


async def test_one_refused_value_among_several_is_unavailable_and_not_quoted(open_cache, breaker, caplog):
    with RedisServer(arguments=["--maxmemory 2mb", "--maxmemory-policy noeviction"]) as server:
        cache = open_cache(server.url, breaker=breaker)
        values = [(f"edgesam:{number}", cache.encode(memoryview(b"secret" * 250_000))) for number in range(4)]

        with pytest.raises(CacheUnavailable, match="refused") as failure:
            await cache.put_encoded(values)

    assert not breaker.is_open
    assert "secret" not in caplog.text + str(failure.value.__cause__)


async def test_a_full_redis_that_evicts_takes_new_values(open_cache):
    with RedisServer(arguments=["--maxmemory 8mb", "--maxmemory-policy allkeys-lfu"]) as server:
        cache = open_cache(server.url)

        for number in range(20):
            await cache.put(f"edgesam:{number}", memoryview(bytes(2**20)))

        assert await cache.get("edgesam:19") is not None
        assert server.ask("DBSIZE") < 20


async def test_a_read_only_redis_refuses_without_opening_the_breaker(open_cache, breaker):
    with RedisServer(arguments=["--replicaof 127.0.0.1 1"]) as server:
        cache = open_cache(server.url, breaker=breaker)

        for _ in range(10):
            with pytest.raises(CacheUnavailable):
                await cache.put("edgesam:a", memoryview(b"value"))

        assert not breaker.is_open


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://127.0.0.1:6379",
        "redis+sentinel://127.0.0.1:6379",
        "redis://:s3cret@127.0.0.1:port",
        "redis://:s3cret/slash@127.0.0.1",
        "redis+cluster://:s3cret@127.0.0.1:6379/3",
        "redis://127.0.0.1?socket_timeout=s3cret",
    ],
)
def test_a_wrong_address_is_refused_at_once_and_not_quoted(url):
    with pytest.raises(ValueError, match="The Redis URL is not valid") as refusal:
        connect(url)

    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__suppress_context__


async def test_connecting_is_lazy_and_a_closed_client_is_unavailable(open_cache, open_client, breaker, redis_server):
    client = open_client(redis_server.url)
    await client.call(breaker, "PING")

    await client.aclose()

    with pytest.raises(CacheUnavailable):
        await client.call(breaker, "PING")


async def test_closing_waits_for_running_commands(open_client, breaker, redis_server):
    client = open_client(redis_server.url)
    name = key()
    caller = asyncio.create_task(client.call(breaker, "SET", name, bytes(2**20)))
    await asyncio.sleep(0)  # the task starts

    await client.aclose()

    assert await caller is True
    assert redis_server.ask("STRLEN", name) == 2**20


@pytest.mark.parametrize("right", ["+getrange", ""])
async def test_the_first_bytes_of_a_value_are_read_with_and_without_the_right(open_cache, right):
    rules = f"user edgesam on >pw ~edgesam:* resetchannels -@all +get +getex +set {right}"
    with RedisServer(acl=[rules]) as server:
        cache = open_cache(f"redis://edgesam:pw@127.0.0.1:{server.port}", ttl_s=1000.0)
        server.ask("SET", "edgesam:a", "a value")

        assert await cache.first_bytes("edgesam:a", 3) == b"a v"
        assert await cache.first_bytes("edgesam:a", 300) == b"a value"
        assert await cache.first_bytes("edgesam:b", 3) == b""
