"""Deletions are published to all replicas, and recorded as tombstones for replicas that miss the message."""

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass, field

import pytest
from support.redis_server import RedisCluster, RedisSentinels, RedisServer, eventually, free_port

import service.cache.redis.pubsub
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.deletions import CHANNEL, MAX_MESSAGE_BYTES, Deletions, is_older, tombstone_key

WAIT_S = 60.0
RIGHTS = "~edgesam:* resetchannels -@all +get +set +unlink +eval"


@dataclass
class Replica:
    """The deletions of one process, and the messages that it received."""

    deletions: Deletions
    breaker: CircuitBreaker
    received: list[str] = field(default_factory=list)
    subscribed_at: list[float] = field(default_factory=list)

    async def receives(self, count):
        await eventually(lambda: len(self.received) >= count, timeout_s=WAIT_S, what=f"received {self.received}")

    async def subscribes(self, times=1):
        await eventually(lambda: len(self.subscribed_at) >= times, timeout_s=WAIT_S, what="it is not subscribed")


@pytest.fixture
async def open_replica(open_client, metrics):
    async with contextlib.AsyncExitStack() as stack:

        def open_(url, **bounds):
            breaker = CircuitBreaker(metrics=metrics)
            replica = Replica(Deletions(open_client(url, **bounds), breaker, tombstone_ttl_s=1000.0), breaker)
            subscription = replica.deletions.subscription(
                on_deletion=replica.received.append,
                on_subscribed=lambda: replica.subscribed_at.append(time.monotonic()),
            )
            subscription.start()
            stack.push_async_callback(subscription.aclose)
            return replica

        yield open_


async def deletes(first, second, server):
    """Check that the first replica deletes a value, the second receives it, and Redis no longer has the value."""
    await second.subscribes()
    server.ask("SET", "edgesam:a", "value")

    assert await first.deletions.delete("edgesam:a") is True
    await second.receives(1)

    assert second.received == ["edgesam:a"]
    assert server.ask("EXISTS", "edgesam:a") == 0


async def test_the_other_replicas_receive_a_deletion_and_its_sender_does_not(open_replica, redis_server):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    await first.subscribes()

    await deletes(first, second, redis_server)
    await second.deletions.delete("edgesam:b")  # Redis never had it, but the memory of a replica may
    await first.receives(1)

    assert first.received == ["edgesam:b"]


async def test_over_tls(open_replica):
    with RedisServer(tls=True) as server:
        url = f"{server.tls_url}?ssl_ca_certs={server.ca_path}"

        await deletes(open_replica(url), open_replica(url), server)


async def test_over_a_unix_socket(open_replica, redis_server):
    await deletes(open_replica(redis_server.unix_url), open_replica(redis_server.unix_url), redis_server)


@pytest.mark.slow
async def test_over_every_node_of_a_cluster(open_replica):
    with RedisCluster() as cluster:
        one, *others = [open_replica(cluster.url) for _ in range(8)]
        for replica in others:
            await replica.subscribes()

        for number in range(6):  # on every master
            await one.deletions.delete(f"edgesam:{number}")
        for replica in others:
            await replica.receives(6)

        subscribers = [node.ask("PUBSUB", "NUMSUB", CHANNEL)[1] for node in cluster.nodes]
        assert sum(subscribers) == 8
        assert await one.deletions.tombstone("edgesam:3")


@pytest.mark.slow
async def test_behind_sentinel_also_after_a_failover(open_replica):
    with RedisSentinels() as sentinels:
        first, second = open_replica(sentinels.url), open_replica(sentinels.url)
        await deletes(first, second, sentinels.master)

        await asyncio.to_thread(sentinels.master.kill)
        await second.subscribes(times=2)

        await eventually(lambda: sentinels.replica.ask("ROLE")[0] == b"master", timeout_s=WAIT_S)
        sentinels.replica.ask("PUBLISH", CHANNEL, "x edgesam:b")
        await second.receives(2)


async def test_each_deletion_sets_a_unique_tombstone(open_replica, redis_server):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    assert await second.deletions.tombstone("edgesam:deleted-twice") == ""

    await first.deletions.delete("edgesam:deleted-twice")
    one = await second.deletions.tombstone("edgesam:deleted-twice")
    await second.deletions.delete("edgesam:deleted-twice")
    other = await first.deletions.tombstone("edgesam:deleted-twice")

    assert one
    assert other
    assert one != other
    assert 900_000 < redis_server.ask("PTTL", tombstone_key("edgesam:deleted-twice")) <= 1_000_000


@pytest.fixture
def put(open_cache, redis_server):
    """A function that stores a value as an upload with a known tombstone does, or as a replica without one does."""
    cache = open_cache(redis_server.url, ttl_s=1000.0)

    async def put_(key, known=""):
        return await cache.put_unless_deleted(key, memoryview(b"value"), tombstone_key=tombstone_key(key), known=known)

    return put_


async def test_nothing_is_stored_beside_an_unknown_tombstone(open_replica, redis_server, put):
    replica, key = open_replica(redis_server.url), "edgesam:put"
    await replica.deletions.delete(key)
    before = await replica.deletions.tombstone(key)
    await replica.deletions.delete(key)
    tombstone = await replica.deletions.tombstone(key)

    assert not await put(key)
    assert not await put(key, known=before)
    assert redis_server.ask("KEYS", "edgesam:*put") == []
    assert redis_server.ask("EXISTS", tombstone_key(key)) == 1
    assert await put(key, known=tombstone)
    assert redis_server.ask("KEYS", "edgesam:*put") == [key.encode()]
    assert redis_server.ask("EXISTS", tombstone_key(key)) == 0
    assert 800_000 < redis_server.ask("PTTL", key) <= 1_100_000
    assert await put(key, known=tombstone)  # the tombstone is removed


async def test_a_value_stored_during_its_deletion_does_not_stay_beside_its_tombstone(open_replica, redis_server, put):
    replica, keys = open_replica(redis_server.url), [f"edgesam:raced:{number}" for number in range(50)]

    await asyncio.gather(*(work for key in keys for work in (put(key), replica.deletions.delete(key), put(key))))

    assert [key for key in keys if redis_server.ask("EXISTS", key, tombstone_key(key)) != 1] == []


@pytest.mark.slow
async def test_tombstones_work_in_a_cluster(open_replica, open_cache):
    with RedisCluster() as cluster:
        deletions, cache = open_replica(cluster.url).deletions, open_cache(cluster.url)
        for number in range(6):  # on every master
            key = f"edgesam:{number}"
            value = {"key": key, "value": memoryview(b"value"), "tombstone_key": tombstone_key(key)}
            await deletions.delete(key)

            assert not await cache.put_unless_deleted(**value, known="")
            assert await cache.put_unless_deleted(**value, known=await deletions.tombstone(key))
            assert await cache.get(key) == b"value"


@pytest.mark.parametrize(
    ("tombstone", "expected"),
    [("0:ab", True), ("9999999999999:ab", False), ("1", True), ("", False), ("-5:a", False), ("\u0664:a", False)],
)
def test_a_tombstone_has_an_age_and_other_text_is_never_older(tombstone, expected):
    assert is_older(tombstone, 1.0) is expected


async def test_closing_a_subscription_can_be_cancelled(open_client, redis_server, metrics):
    deletions = Deletions(open_client(redis_server.url), CircuitBreaker(metrics=metrics), tombstone_ttl_s=1000.0)
    subscription = deletions.subscription(on_deletion=lambda _: None, on_subscribed=lambda: None)
    subscription.start()
    closing = asyncio.create_task(subscription.aclose())
    await asyncio.sleep(0)

    closing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_a_subscription_can_be_closed_at_any_time(open_replica, redis_server):
    deletions = open_replica(redis_server.url).deletions

    for iterations in range(40):  # of the event loop; after some of them the library is connecting
        subscription = deletions.subscription(on_deletion=lambda _: None, on_subscribed=lambda: None)
        subscription.start()
        for _ in range(iterations):
            await asyncio.sleep(0)
        await asyncio.wait_for(subscription.aclose(), WAIT_S)


async def test_without_the_right_to_the_channel_values_are_deleted_and_it_is_logged_once(open_replica, caplog):
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS} +publish +subscribe"]) as server:
        replica = open_replica(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        server.ask("SET", "edgesam:a", "value")

        with caplog.at_level(logging.WARNING):
            assert await replica.deletions.delete("edgesam:a") is True
            assert await replica.deletions.delete("edgesam:a") is False
            await eventually(lambda: "not subscribed" in caplog.text, timeout_s=WAIT_S)
            await tries_again(server, 2)

        assert await replica.deletions.tombstone("edgesam:a")
        assert len(caplog.records) == 2  # one for PUBLISH, one for SUBSCRIBE
        assert not replica.breaker.is_open
        assert replica.subscribed_at == []


async def tries_again(server, times):
    """Wait until SUBSCRIBE was refused this number of times."""
    await eventually(
        lambda: server.ask("INFO", "commandstats").get("cmdstat_subscribe", {}).get("rejected_calls", 0) >= times,
        timeout_s=WAIT_S,
    )


async def test_a_redis_that_refuses_scripts_deletes_and_sets_a_tombstone(open_replica, caplog):
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS} &{CHANNEL} +subscribe -eval"]) as server:
        replica = open_replica(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        server.ask("SET", "edgesam:a", "value")

        assert await replica.deletions.delete("edgesam:a") is True

        assert server.ask("EXISTS", "edgesam:a") == 0
        assert await replica.deletions.tombstone("edgesam:a")
        assert "deletions be published" in caplog.text


async def test_a_full_redis_deletes(open_replica):
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.subscribes()
        server.ask("SET", "edgesam:a", "value")
        server.ask("CONFIG", "SET", "maxmemory", "1")

        assert await replica.deletions.delete("edgesam:a") is True


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0", b"\xff\xfe", "ä edgesam:b".encode(), b"x" * (MAX_MESSAGE_BYTES + 1), bytes(2**22)],
    ids=lambda text: str(len(text)),
)
async def test_garbage_on_the_channel_is_ignored(open_replica, redis_server, garbage):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    await second.subscribes()

    redis_server.ask("PUBLISH", CHANNEL, garbage)
    await first.deletions.delete("edgesam:a")
    await eventually(lambda: "edgesam:a" in second.received, timeout_s=WAIT_S)

    assert set(second.received) <= {"", "edgesam:a"}
    assert len(second.subscribed_at) == 1


async def test_after_a_restart_of_redis_a_replica_subscribes_again_and_logs_it_once(open_replica, caplog):
    with RedisServer() as server, caplog.at_level(logging.INFO):
        first, second = open_replica(server.url), open_replica(server.url)
        await first.subscribes()
        await second.subscribes()

        server.kill()
        await eventually(lambda: caplog.text.count("not subscribed") == 2, timeout_s=WAIT_S)
        server.start()
        await second.subscribes(times=2)
        await first.subscribes(times=2)
        server.ask("SET", "edgesam:a", "value")
        await first.deletions.delete("edgesam:a")
        await second.receives(1)

        levels = [record.levelname for record in caplog.records if "subscribed" in record.message]
        assert levels == ["INFO"] * 2 + ["WARNING"] * 2 + ["INFO"] * 2


async def test_attempts_to_reach_a_lost_redis_become_less_frequent(open_replica, monkeypatch):
    monkeypatch.setattr(service.cache.redis.pubsub, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(service.cache.redis.pubsub, "LAST_RETRY_S", 0.08)
    attempts = []

    async def answer(_, writer):
        attempts.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", free_port())
    async with server:
        open_replica(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await eventually(lambda: len(attempts) >= 8, timeout_s=WAIT_S)

    pauses_s = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert min(pauses_s[3:]) >= 0.08 * 0.75


async def test_a_subscription_reconnects_after_a_silent_redis(open_replica, monkeypatch, caplog):
    monkeypatch.setattr(service.cache.redis.pubsub, "QUIET_S", 0.05)
    monkeypatch.setattr(service.cache.redis.pubsub, "ANSWER_S", 0.5)
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.subscribes()

        server.pause()
        await eventually(lambda: "not subscribed" in caplog.text, timeout_s=WAIT_S)
        server.resume()

        await replica.subscribes(times=2)


async def test_a_connection_without_messages_is_checked_with_ping_and_kept(open_replica, monkeypatch):
    monkeypatch.setattr(service.cache.redis.pubsub, "QUIET_S", 0.01)
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.subscribes()

        await eventually(
            lambda: server.ask("INFO", "commandstats").get("cmdstat_ping", {}).get("calls", 0) >= 5, timeout_s=WAIT_S
        )

        assert len(replica.subscribed_at) == 1


async def test_without_the_right_to_ping_a_subscription_continues_and_it_is_logged_once(
    open_replica, monkeypatch, caplog
):
    monkeypatch.setattr(service.cache.redis.pubsub, "QUIET_S", 0.01)
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS} &{CHANNEL} +publish +subscribe"]) as server:
        replica = open_replica(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        await replica.subscribes()
        await eventually(
            lambda: server.ask("INFO", "commandstats").get("cmdstat_ping", {}).get("rejected_calls", 0) >= 3,
            timeout_s=WAIT_S,
        )

        server.ask("PUBLISH", CHANNEL, "x edgesam:a")
        await replica.receives(1)

        assert len(replica.subscribed_at) == 1
        assert [record.message.partition(":")[0] for record in caplog.records] == [
            "The Redis user lacks the right +ping"
        ]


async def test_a_subscription_takes_no_connection_from_commands(open_replica, redis_server):
    first, second = [open_replica(redis_server.url, max_connections=1) for _ in range(2)]
    await first.subscribes()
    await second.subscribes()

    await asyncio.gather(*(first.deletions.delete(f"edgesam:{number}") for number in range(20)))
    await second.receives(20)

    assert not first.received


async def test_many_messages_let_other_work_run_in_between(open_replica, redis_server):
    replica = open_replica(redis_server.url)
    await replica.subscribes()

    def publish():
        script = "for i = 1, 20000 do redis.call('PUBLISH', ARGV[1], 'x edgesam:' .. i) end"
        redis_server.ask("EVAL", script, 0, CHANNEL)

    publishing = asyncio.create_task(asyncio.to_thread(publish))
    iterations = 0
    while len(replica.received) < 20_000:
        before = len(replica.received)
        await asyncio.sleep(0)
        iterations += 1
        assert len(replica.received) - before <= 2
    await publishing

    assert iterations >= 10_000
