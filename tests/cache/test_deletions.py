"""What one replica deletes is told to the others, and marked for those that do not hear it."""

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
RIGHTS = "~edgesam:* resetchannels -@all +getex +set +unlink +eval"


@dataclass
class Replica:
    """A process's view of deletions, and what it heard."""

    deletions: Deletions
    breaker: CircuitBreaker
    heard: list[str] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)

    async def hears(self, count):
        await eventually(lambda: len(self.heard) >= count, timeout_s=WAIT_S, what=f"heard {self.heard}")

    async def listens(self, times=1):
        await eventually(lambda: len(self.begins) >= times, timeout_s=WAIT_S, what="it does not listen")


@pytest.fixture
async def open_replica(open_client, metrics):
    async with contextlib.AsyncExitStack() as stack:

        def open_(url, **bounds):
            breaker = CircuitBreaker(metrics=metrics)
            replica = Replica(Deletions(open_client(url, **bounds), breaker, tombstone_ttl_s=1000.0), breaker)
            subscription = replica.deletions.subscription(
                on_deletion=replica.heard.append, on_subscribed=lambda: replica.begins.append(time.monotonic())
            )
            subscription.start()
            stack.push_async_callback(subscription.aclose)
            return replica

        yield open_


async def deletes(first, second, server):
    """What the one deletes, the other hears and Redis has no more."""
    await second.listens()
    server.ask("SET", "edgesam:a", "value")

    assert await first.deletions.delete("edgesam:a") is True
    await second.hears(1)

    assert second.heard == ["edgesam:a"]
    assert server.ask("EXISTS", "edgesam:a") == 0


async def test_the_others_hear_it_and_the_one_does_not(open_replica, redis_server):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    await first.listens()

    await deletes(first, second, redis_server)
    await second.deletions.delete("edgesam:b")  # Redis never had it; perhaps a memory has
    await first.hears(1)

    assert first.heard == ["edgesam:b"]


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
            await replica.listens()

        for number in range(6):  # on every master
            await one.deletions.delete(f"edgesam:{number}")
        for replica in others:
            await replica.hears(6)

        listeners = [node.ask("PUBSUB", "NUMSUB", CHANNEL)[1] for node in cluster.nodes]
        assert sum(listeners) == 8
        assert await one.deletions.tombstone("edgesam:3")


@pytest.mark.slow
async def test_behind_sentinel_also_when_the_master_is_another(open_replica):
    with RedisSentinels() as sentinels:
        first, second = open_replica(sentinels.url), open_replica(sentinels.url)
        await deletes(first, second, sentinels.master)

        await asyncio.to_thread(sentinels.master.kill)
        await second.listens(times=2)

        await eventually(lambda: sentinels.replica.ask("ROLE")[0] == b"master", timeout_s=WAIT_S)
        sentinels.replica.ask("PUBLISH", CHANNEL, "x edgesam:b")
        await second.hears(2)


async def test_each_deletion_leaves_a_mark_of_its_own(open_replica, redis_server):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    assert await second.deletions.tombstone("edgesam:marked") == ""

    await first.deletions.delete("edgesam:marked")
    one = await second.deletions.tombstone("edgesam:marked")
    await second.deletions.delete("edgesam:marked")
    other = await first.deletions.tombstone("edgesam:marked")

    assert one
    assert other
    assert one != other
    assert 900_000 < redis_server.ask("PTTL", tombstone_key("edgesam:marked")) <= 1_000_000


@pytest.fixture
def put(open_cache, redis_server):
    """Store the value of a key, as an upload does that knows a mark, or whoever puts it back and knows none."""
    cache = open_cache(redis_server.url, ttl_s=1000.0)

    async def put_(key, known=""):
        return await cache.put_unless_deleted(key, memoryview(b"value"), tombstone_key=tombstone_key(key), known=known)

    return put_


async def test_nothing_is_stored_where_a_mark_is_but_by_who_knows_it(open_replica, redis_server, put):
    replica, key = open_replica(redis_server.url), "edgesam:put"
    await replica.deletions.delete(key)
    before = await replica.deletions.tombstone(key)
    await replica.deletions.delete(key)
    mark = await replica.deletions.tombstone(key)

    assert not await put(key)
    assert not await put(key, known=before)
    assert redis_server.ask("KEYS", "edgesam:*put*") == [tombstone_key(key).encode()]
    assert await put(key, known=mark)
    assert redis_server.ask("KEYS", "edgesam:*put*") == [key.encode()]
    assert 800_000 < redis_server.ask("PTTL", key) <= 1_100_000
    assert await put(key, known=mark)  # which is no longer there


async def test_what_is_put_in_while_it_is_deleted_does_not_stay_beside_its_mark(open_replica, redis_server, put):
    replica, keys = open_replica(redis_server.url), [f"edgesam:raced:{number}" for number in range(50)]

    await asyncio.gather(*(work for key in keys for work in (put(key), replica.deletions.delete(key), put(key))))

    assert [key for key in keys if redis_server.ask("EXISTS", key, tombstone_key(key)) != 1] == []


@pytest.mark.slow
async def test_in_a_cluster_too(open_replica, open_cache):
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
    ("mark", "is_it"),
    [("0:ab", True), ("9999999999999:ab", False), ("1", True), ("", False), ("-5:a", False), ("\u0664:a", False)],
)
def test_a_mark_tells_when_it_was_set_and_what_is_none_is_never_older(mark, is_it):
    assert is_older(mark, 1.0) is is_it


async def test_who_closes_a_subscription_can_be_cancelled(open_client, redis_server, metrics):
    deletions = Deletions(open_client(redis_server.url), CircuitBreaker(metrics=metrics), tombstone_ttl_s=1000.0)
    subscription = deletions.subscription(on_deletion=lambda _: None, on_subscribed=lambda: None)
    subscription.start()
    closing = asyncio.create_task(subscription.aclose())
    await asyncio.sleep(0)

    closing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_listening_ends_whenever_it_is_closed(open_replica, redis_server):
    deletions = open_replica(redis_server.url).deletions

    for turns in range(40):  # of the event loop; some of them are within the library, while it connects
        subscription = deletions.subscription(on_deletion=lambda _: None, on_subscribed=lambda: None)
        subscription.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(subscription.aclose(), WAIT_S)


async def test_without_the_right_to_the_channel_values_are_deleted_and_the_log_says_it_once(open_replica, caplog):
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS} +publish +subscribe"]) as server:
        replica = open_replica(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        server.ask("SET", "edgesam:a", "value")

        with caplog.at_level(logging.WARNING):
            assert await replica.deletions.delete("edgesam:a") is True
            assert await replica.deletions.delete("edgesam:a") is False
            await eventually(lambda: "not listening" in caplog.text, timeout_s=WAIT_S)
            await tries_again(server, 2)

        assert await replica.deletions.tombstone("edgesam:a")
        assert len(caplog.records) == 2  # one for speaking, one for listening
        assert not replica.breaker.is_open
        assert replica.begins == []


async def tries_again(server, times):
    """Wait until it has asked to listen so often."""
    await eventually(
        lambda: server.ask("INFO", "commandstats").get("cmdstat_subscribe", {}).get("rejected_calls", 0) >= times,
        timeout_s=WAIT_S,
    )


async def test_a_redis_that_refuses_scripts_deletes_and_marks(open_replica, caplog):
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS} &{CHANNEL} +subscribe -eval"]) as server:
        replica = open_replica(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        server.ask("SET", "edgesam:a", "value")

        assert await replica.deletions.delete("edgesam:a") is True

        assert server.ask("EXISTS", "edgesam:a") == 0
        assert await replica.deletions.tombstone("edgesam:a")
        assert "deletions be told" in caplog.text


async def test_a_full_redis_deletes(open_replica):
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.listens()
        server.ask("SET", "edgesam:a", "value")
        server.ask("CONFIG", "SET", "maxmemory", "1")

        assert await replica.deletions.delete("edgesam:a") is True


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0", b"\xff\xfe", "ä edgesam:b".encode(), b"x" * (MAX_MESSAGE_BYTES + 1), bytes(2**22)],
    ids=lambda text: str(len(text)),
)
async def test_garbage_on_the_channel_is_passed_over(open_replica, redis_server, garbage):
    first, second = open_replica(redis_server.url), open_replica(redis_server.url)
    await second.listens()

    redis_server.ask("PUBLISH", CHANNEL, garbage)
    await first.deletions.delete("edgesam:a")
    await eventually(lambda: "edgesam:a" in second.heard, timeout_s=WAIT_S)

    assert set(second.heard) <= {"", "edgesam:a"}
    assert len(second.begins) == 1


async def test_after_a_restart_of_redis_it_listens_again_and_says_so_once(open_replica, caplog):
    with RedisServer() as server, caplog.at_level(logging.INFO):
        first, second = open_replica(server.url), open_replica(server.url)
        await first.listens()
        await second.listens()

        server.kill()
        await eventually(lambda: caplog.text.count("not listening") == 2, timeout_s=WAIT_S)
        server.start()
        await second.listens(times=2)
        await first.listens(times=2)
        server.ask("SET", "edgesam:a", "value")
        await first.deletions.delete("edgesam:a")
        await second.hears(1)

        levels = [record.levelname for record in caplog.records if "listening" in record.message]
        assert levels == ["INFO"] * 2 + ["WARNING"] * 2 + ["INFO"] * 2


async def test_attempts_at_a_redis_that_is_gone_grow_rare(open_replica, monkeypatch):
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


async def test_a_silent_redis_is_left_and_found_again(open_replica, monkeypatch, caplog):
    monkeypatch.setattr(service.cache.redis.pubsub, "QUIET_S", 0.05)
    monkeypatch.setattr(service.cache.redis.pubsub, "ANSWER_S", 0.5)
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.listens()

        server.pause()
        await eventually(lambda: "not listening" in caplog.text, timeout_s=WAIT_S)
        server.resume()

        await replica.listens(times=2)


async def test_a_quiet_channel_is_asked_and_stays(open_replica, monkeypatch):
    monkeypatch.setattr(service.cache.redis.pubsub, "QUIET_S", 0.01)
    with RedisServer() as server:
        replica = open_replica(server.url)
        await replica.listens()

        await eventually(
            lambda: server.ask("INFO", "commandstats")["cmdstat_subscribe"]["calls"] >= 5, timeout_s=WAIT_S
        )

        assert len(replica.begins) == 1


async def test_listening_takes_no_connection_that_commands_need(open_replica, redis_server):
    first, second = [open_replica(redis_server.url, max_connections=1) for _ in range(2)]
    await first.listens()
    await second.listens()

    await asyncio.gather(*(first.deletions.delete(f"edgesam:{number}") for number in range(20)))
    await second.hears(20)

    assert not first.heard


async def test_many_messages_let_other_work_have_its_turns(open_replica, redis_server):
    replica = open_replica(redis_server.url)
    await replica.listens()

    def speak():
        script = "for i = 1, 20000 do redis.call('PUBLISH', ARGV[1], 'x edgesam:' .. i) end"
        redis_server.ask("EVAL", script, 0, CHANNEL)

    speaking = asyncio.create_task(asyncio.to_thread(speak))
    turns = 0
    while len(replica.heard) < 20_000:
        before = len(replica.heard)
        await asyncio.sleep(0)
        turns += 1
        assert len(replica.heard) - before <= 2
    await speaking

    assert turns >= 10_000
