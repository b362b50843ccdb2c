"""The Redis tier over TLS, and as a user with few rights."""

import asyncio
import re
from pathlib import Path

import pytest
from support.redis_server import RedisServer

import service.cache.redis.acl
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.deletions import Deletions
from service.cache.redis.lock import RedisLock
from service.errors import CacheUnavailable

ROOT = Path(__file__).parent.parent.parent
DOCUMENTED = " ".join(re.search(r"user edgesam on .*\n.*", service.cache.redis.acl.__doc__)[0].split())
USER_RULE = DOCUMENTED.replace("PASSWORD", "s3cret")
LONG_ENOUGH_S = 60.0
# Without +ping and +getrange everything works, with more work for Redis: see test_deletions.py and test_redis.py.
RIGHTS = [right for right in re.findall(r"[+&]\S+", USER_RULE) if right not in {"+ping", "+getrange"}]


def without(*rights):
    """Return the ACL rule of the user without some rights."""
    return " ".join(part for part in USER_RULE.split() if part not in rights)


def url_of(server, user, password):
    return f"redis://{user}:{password}@127.0.0.1:{server.port}"


async def use_everything(cache, lock, deletions):
    """Run every kind of command that the service sends to Redis."""
    received, subscribed = asyncio.Queue(), asyncio.Event()
    subscription = deletions.subscription(on_deletion=received.put_nowait, on_subscribed=subscribed.set)
    subscription.start()
    try:
        await asyncio.wait_for(subscribed.wait(), LONG_ENOUGH_S)
        await Deletions(deletions._client, deletions._breaker, tombstone_ttl_s=60.0).delete("edgesam:b")
        assert await asyncio.wait_for(received.get(), LONG_ENOUGH_S) == "edgesam:b"
    finally:
        await subscription.aclose()
    await cache.put("edgesam:a", memoryview(b"value"))
    assert await cache.get("edgesam:a") == b"value"
    assert await cache.contains("edgesam:a")
    assert await cache.renew("edgesam:a")
    assert await cache.put_unless_deleted(
        "edgesam:a", memoryview(b"value"), tombstone_key="edgesam:deleted:{edgesam:a}", known=""
    )
    assert await cache.delete("edgesam:a")
    token = await lock.acquire("edgesam:a")
    assert token is not None
    assert await lock.renew("edgesam:a", token)
    await lock.release("edgesam:a", token)
    assert await lock.acquire("edgesam:a") is not None


@pytest.fixture
def open_all(open_cache, open_client, metrics):
    """A function that returns the cache, the lock and the deletions, as the user `edgesam` of a server."""

    def open_(server):
        url, breaker = url_of(server, "edgesam", "s3cret"), CircuitBreaker(metrics=metrics)
        client = open_client(url)
        return open_cache(url), RedisLock(client, breaker, ttl_s=60.0), Deletions(client, breaker, tombstone_ttl_s=60.0)

    return open_


async def test_the_documented_rights_are_sufficient(open_all):
    with RedisServer(acl=[USER_RULE]) as server:
        await use_everything(*open_all(server))


@pytest.mark.parametrize("right", RIGHTS)
async def test_each_documented_right_is_needed(open_all, right, monkeypatch):
    monkeypatch.setattr(f"{__name__}.LONG_ENOUGH_S", 0.5)
    with (
        RedisServer(acl=[without(right)]) as server,
        pytest.raises((CacheUnavailable, TimeoutError)),
    ):
        await use_everything(*open_all(server))


@pytest.mark.parametrize(
    ("path", "beside"),
    [("docs/how-to/redis.md", ""), ("docker/make-secrets", " +time"), ("k8s/make-secrets", " +time")],
)
def test_the_documents_and_scripts_create_the_same_user(path, beside):
    lines = [line.strip("`,. ") for line in re.findall(r"user edgesam on .*", (ROOT / path).read_text())]

    rights = DOCUMENTED.partition("PASSWORD ")[2] + beside
    assert len(lines) == 1
    assert lines[0].split("`")[0].endswith(rights)


async def test_with_the_rights_of_an_older_release_values_are_served_and_missing_rights_logged_once(open_all, caplog):
    with RedisServer(acl=[without("+get", "+ping")]) as server:
        cache, lock, deletions = open_all(server)

        await cache.put("edgesam:a", memoryview(b"value"))
        token = await lock.acquire("edgesam:a")
        for _ in range(2):
            with pytest.raises(CacheUnavailable):
                await cache.put_unless_deleted(
                    "edgesam:b", memoryview(b"b"), tombstone_key="edgesam:deleted:{edgesam:b}", known=""
                )
            with pytest.raises(CacheUnavailable):
                await lock.renew("edgesam:a", token)
            with pytest.raises(CacheUnavailable):
                await deletions.tombstone("edgesam:a")

        assert await cache.get("edgesam:a") == b"value"
        assert await cache.get("edgesam:b") is None  # nothing could check its tombstone
        assert await deletions.delete("edgesam:a")
        lines = [record.message.partition(":")[0] for record in caplog.records]
        assert sorted(lines) == ["The Redis user lacks the right +get"] * 2  # the cache has a client of its own


async def test_another_database_needs_one_right_more(open_cache):
    with RedisServer(acl=[USER_RULE, USER_RULE.replace("edgesam on", "selecting on") + " +select"]) as server:
        may_not, may = (url_of(server, user, "s3cret") + "/3" for user in ("edgesam", "selecting"))

        with pytest.raises(CacheUnavailable):
            await open_cache(may_not).get("edgesam:a")
        assert await open_cache(may).get("edgesam:a") is None


async def test_a_missing_right_is_an_answer_and_does_not_open_the_breaker(open_client, metrics):
    with RedisServer(acl=[USER_RULE]) as server:
        client = open_client(url_of(server, "edgesam", "s3cret"))
        breaker = CircuitBreaker(metrics=metrics)

        for command in [("KEYS", "*"), ("FLUSHALL",), ("SET", "others:a", "1"), ("CONFIG", "GET", "*")] * 3:
            with pytest.raises(CacheUnavailable) as refusal:
                await client.call(breaker, *command)
            assert "NoPermission" in type(refusal.value.__cause__).__name__

        assert not breaker.is_open


@pytest.mark.parametrize("login", ["edgesam:wrong@", "nobody:s3cret@", ":s3cret@", ""])
async def test_a_wrong_login_is_an_unavailable_cache_and_the_error_has_no_password(open_cache, login):
    with RedisServer(acl=[USER_RULE]) as server:
        cache = open_cache(f"redis://{login}127.0.0.1:{server.port}")

        with pytest.raises(CacheUnavailable) as failure:
            await cache.get("edgesam:a")

        assert "s3cret" not in str(failure.value) + str(failure.value.__cause__)


async def test_a_password_with_special_characters_is_percent_encoded(open_cache):
    with RedisServer(acl=[USER_RULE.replace("s3cret", "p@ss/w:rd#%")]) as server:
        cache = open_cache(url_of(server, "edgesam", "p%40ss%2Fw%3Ard%23%25"))

        assert await cache.get("edgesam:a") is None


async def test_tls_works_with_the_right_authority(open_cache):
    with RedisServer(tls=True, acl=[USER_RULE]) as server:
        cache = open_cache(f"rediss://edgesam:s3cret@127.0.0.1:{server.tls_port}?ssl_ca_certs={server.ca_path}")
        value = memoryview(bytes(2**21))

        await cache.put("edgesam:a", value)

        assert await cache.get("edgesam:a") == value


async def test_tls_refuses_a_server_with_another_authority(open_cache):
    with RedisServer(tls=True) as server, RedisServer(tls=True) as other:
        for url in (server.tls_url, f"{server.tls_url}?ssl_ca_certs={other.ca_path}"):
            cache = open_cache(url)

            with pytest.raises(CacheUnavailable) as failure:
                await cache.get("edgesam:a")

            assert "certificate" in str(failure.value.__cause__).lower()


async def test_tls_checks_the_name_of_the_server(open_cache):
    with RedisServer(tls=True) as server:
        cache = open_cache(f"rediss://127.0.0.2:{server.tls_port}?ssl_ca_certs={server.ca_path}")

        with pytest.raises(CacheUnavailable):
            await cache.get("edgesam:a")


async def test_a_plain_client_of_a_tls_port_gets_an_unavailable_cache(open_cache):
    with RedisServer(tls=True) as server:
        cache = open_cache(f"redis://127.0.0.1:{server.tls_port}", read_timeout_s=0.2)

        with pytest.raises(CacheUnavailable):
            await cache.get("edgesam:a")


async def test_a_missing_authority_file_is_an_unavailable_cache(open_cache, tmp_path):
    with RedisServer(tls=True) as server:
        cache = open_cache(f"{server.tls_url}?ssl_ca_certs={tmp_path}/nothing.crt")

        with pytest.raises(CacheUnavailable):
            await cache.get("edgesam:a")


async def test_a_silent_server_does_not_keep_a_client_from_closing(open_client, metrics):
    with RedisServer(tls=True) as server:
        url = f"{server.tls_url}?ssl_ca_certs={server.ca_path}"
        client = open_client(url, connect_timeout_s=1.0)
        await client.call(CircuitBreaker(metrics=metrics), "PING")
        server.pause()

        async with asyncio.timeout(5.0):
            await client.aclose()
