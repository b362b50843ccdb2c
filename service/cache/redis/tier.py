"""The tier that all replicas share: bytes in Redis, every command bounded, every failure one CacheUnavailable.

Needs Redis 6.2 or Valkey 7.2 (GETEX). The smallest ACL user that serves the cache, the lock (lock.py) and deletions
(deletions.py), on one line:

    user edgesam on >PASSWORD ~edgesam:* ~lock:* resetchannels &edgesam:forget
        -@all +getex +set +unlink +exists +pexpire +eval +publish +subscribe

plus `+time` for shared rates (bucket.py), `+select` for a database other than 0 and `+cluster|slots +command` for a
cluster. HELLO and AUTH need no rule.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MaxConnectionsError, RedisClusterException, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from service.cache.base import Codec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.sentinel import master_client
from service.errors import CacheUnavailable
from service.sam.embedding import CorruptValue
from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

V = TypeVar("V")
A = TypeVar("A")
R = TypeVar("R")

_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_TTL_JITTER = 0.1  # values written together do not expire together
_RETRY_AFTER_S = 1.0

# After a plain SET: a value of 2 MiB that goes through a script keeps the server busy for 5 ms instead of one.
_SETTLE = """
local mark = redis.call('GETEX', KEYS[2])
if mark and mark ~= ARGV[1] then
    redis.call('UNLINK', KEYS[1])
    return 'refused'
end
redis.call('UNLINK', KEYS[2])
return redis.call('EXISTS', KEYS[1]) == 1 and 'kept' or 'gone'
"""


class RedisCache(Generic[V]):
    """A cache tier in Redis. Values never touch the event loop: they are encoded and decoded in the executor.

    Any failure of Redis raises CacheUnavailable, also in `put`. A value that is not valid counts as outcome "error",
    is deleted and is a miss.

    Args:
        client: shared with other tiers and the lock, and closed by whoever made it.
        codec: turns values into bytes and back.
        ttl_s: seconds a value lives after its last use, give or take 10 %.
        breaker: shared by everything that asks this Redis.
        metrics: counts look-ups as tier "redis".
        executor: runs the codec.
        lookups: whether look-ups are counted; off for values that should not show in the hit ratio.
    """

    def __init__(
        self,
        client: "RedisClient",
        codec: Codec[V],
        *,
        ttl_s: float,
        breaker: CircuitBreaker,
        metrics: Metrics,
        executor: Executor,
        lookups: bool = True,
    ) -> None:
        self.tier = "redis"
        self.ttl_s = ttl_s
        self._client = client
        self._codec = codec
        self._breaker = breaker
        self._executor = executor
        self._lookups = metrics.cache_lookups_total if lookups else None

    async def get(self, key: str) -> V | None:
        """The value, whose time to live starts anew, or None.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        try:
            data = await self._client.call(self._breaker, "GETEX", key, "PX", self._ttl_ms())
        except CacheUnavailable:
            self._count("error")
            raise
        if data is None:
            self._count("miss")
            return None
        if not isinstance(data, bytes):
            self._count("error")
            raise CacheUnavailable("The shared cache does not answer like Redis.", retry_after_s=_RETRY_AFTER_S)

        try:
            value = await self._in_executor(self._codec.decode, data)
        except CorruptValue:
            self._count("error")
            await self._delete_corrupt(key)
            return None
        self._count("hit")
        return value

    async def put(self, key: str, value: V) -> None:
        """Keep a value.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused (full and not evicting, read-only).
        """
        self._breaker.check()  # no encoding for a server that will not be asked
        data = await self._in_executor(self._codec.encode, value)
        await self._client.call(self._breaker, "SET", key, data, "PX", self._ttl_ms())

    async def put_unless(self, key: str, value: V, *, marked: str, known: str) -> bool:
        """Keep a value and take its mark away, or keep nothing where an unknown mark is.

        Beside an unknown mark the value is there for the time of a round trip, or if the second command is lost.

        Args:
            key: of the value.
            value: to keep.
            marked: key of the mark, in the slot of the value's.
            known: the mark that may be there; "" for none.

        Returns:
            Whether the value is kept.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused; perhaps it has the value.
        """
        self._breaker.check()
        data = await self._in_executor(self._codec.encode, value)
        for _ in range(2):  # somebody who did not know the mark may have taken it away, as this one would have
            await self._client.call(self._breaker, "SET", key, data, "PX", self._ttl_ms())
            settled = await self._client.call(self._breaker, "EVAL", _SETTLE, 2, key, marked, known)
            if settled != b"gone":
                return bool(settled == b"kept")
        return True  # thrown out for want of room, twice: so are caches

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    async def contains(self, key: str) -> bool:
        """Whether there is a value, be it valid or not; its time to live goes on.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "EXISTS", key))

    async def renew(self, key: str) -> bool:
        """Start a value's time to live anew; False if there is none.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "PEXPIRE", key, self._ttl_ms()))

    async def aclose(self) -> None:
        """Nothing: the client belongs to whoever made it, and the values to all replicas."""

    async def _in_executor(self, function: Callable[[A], R], argument: A) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)

    async def _delete_corrupt(self, key: str) -> None:
        with contextlib.suppress(CacheUnavailable):  # it is a miss all the same, and the next reader tries again
            await self.delete(key)

    def _ttl_ms(self) -> int:
        jitter = random.uniform(1.0 - _TTL_JITTER, 1.0 + _TTL_JITTER)  # noqa: S311 - spreads expiry, hides nothing
        return max(1, round(self.ttl_s * 1000.0 * jitter))

    def _count(self, outcome: str) -> None:
        if self._lookups is not None:
            self._lookups.labels(self.tier, outcome).inc()


class RedisClient:
    """A bounded connection to one Redis or one cluster. Made by `connect`, in which the bounds are explained."""

    def __init__(
        self, redis: Redis | RedisCluster, *, max_connections: int, queue_timeout_s: float, deadline_s: float
    ) -> None:
        self._redis = redis
        self._permits = asyncio.Semaphore(max_connections)
        self._queue_timeout_s = queue_timeout_s
        self._deadline_s = deadline_s
        self._running: set[asyncio.Task[Any]] = set()
        self._refusals: set[str] = set()
        self._is_closed = False

    async def call(self, breaker: CircuitBreaker, *command: str | bytes | int) -> Any:
        """Run one command and report to the breaker how the server took it.

        A refusal by the server (out of memory, read-only, no permission) is an answer, not an outage, and does not
        count towards opening the breaker: a full Redis still serves reads. Nor does the lack of a free connection,
        which is this process's own load.

        A cancelled caller leaves at once. Its command ends by itself within its bound, so that no connection is
        left half-read or thrown away, and no probe of the breaker stays without a result.

        Raises:
            CacheUnavailable: for every other reason than an answer; the cause is chained.
        """
        breaker.check()
        await self._take_permit()
        try:
            task = self._start(breaker, command)
        except CacheUnavailable:
            self._permits.release()
            raise
        return await asyncio.shield(task)

    async def spare_connection(self) -> AbstractConnection:
        """A connection beyond the bound, for who only listens; not open yet, and closed by whoever asked for it.

        In a cluster it is one to any of its nodes. It speaks RESP2: in RESP3 the library writes each message out, for
        a log that nobody reads.
        """
        redis = self._redis
        if isinstance(redis, Redis):
            pool = redis.connection_pool
            return pool.connection_class(**(pool.connection_kwargs | {"protocol": 2}))
        await redis.initialize()
        node = random.choice(redis.get_nodes())  # noqa: S311 - each is as good
        return node.connection_class(**(node.connection_kwargs | {"protocol": 2}))

    async def aclose(self) -> None:
        """Refuse new commands, wait for the running ones (each is bounded) and close every connection."""
        self._is_closed = True
        await asyncio.gather(*self._running, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):  # a silent server cannot keep the process from stopping
            await self._redis.aclose()

    async def _take_permit(self) -> None:
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await self._permits.acquire()
        except TimeoutError as error:
            raise CacheUnavailable(
                "All connections to the shared cache are busy.", retry_after_s=_RETRY_AFTER_S
            ) from error

    def _start(self, breaker: CircuitBreaker, command: tuple[str | bytes | int, ...]) -> asyncio.Task[Any]:
        if self._is_closed:
            raise CacheUnavailable("The service is stopping.", retry_after_s=_RETRY_AFTER_S)
        breaker.admit()  # it may have opened during the wait for the permit
        task = asyncio.create_task(self._run(breaker, command), name="redis-command")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._permits.release()

    async def _run(self, breaker: CircuitBreaker, command: tuple[str | bytes | int, ...]) -> Any:
        try:
            async with asyncio.timeout(self._deadline_s):
                # A cluster's client that does not know the slots yet would send the command just anywhere.
                await self._redis.initialize()
                answer = await self._redis.execute_command(*command)
        except MaxConnectionsError as error:
            raise CacheUnavailable(
                "All connections to the shared cache are busy.", retry_after_s=_RETRY_AFTER_S
            ) from error
        except ResponseError as error:
            breaker.succeeded()
            self._log_refusal(error)
            raise CacheUnavailable("The shared cache refused the command.", retry_after_s=_RETRY_AFTER_S) from error
        except Exception as error:
            # Whatever the client library makes of a broken or foreign server, this tier only degrades.
            breaker.failed()
            raise CacheUnavailable("The shared cache did not answer.", retry_after_s=_RETRY_AFTER_S) from error
        breaker.succeeded()
        return answer

    def _log_refusal(self, error: ResponseError) -> None:
        """Once for each kind: neither the breaker nor a failed request tells the operator of a full or closed Redis."""
        kind = type(error).__name__
        if kind not in self._refusals:
            self._refusals.add(kind)
            _log.warning("Redis refuses commands: %s", error)


class _Cluster(RedisCluster):
    """The library's client for a cluster, which by itself leaves connections open if the last command failed."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


def connect(
    url: str,
    *,
    max_connections: int = 8,
    connect_timeout_s: float = 0.05,
    read_timeout_s: float = 0.1,
    queue_timeout_s: float = 0.5,
) -> RedisClient:
    """A client for a Redis address; opens no connection yet.

    A command waits at most `queue_timeout_s` for a free connection and then takes at most `connect_timeout_s` plus
    twice `read_timeout_s` (sending and receiving), behind sentinels twice as long, whatever the server does. There is
    no retry: the next tier, or computing the value, is better than waiting again.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database; `redis+cluster://` and
            `rediss+cluster://` name any node of a cluster, `redis+sentinel://` and `rediss+sentinel://` the sentinels
            (see sentinel.py). Certificates are options of the query, for instance
            `?ssl_ca_certs=/etc/redis/ca.crt`.
        max_connections: connections of this process, in a cluster to each node. More would not be faster: two
            already saturate the event loop with values of 2 MiB.
        connect_timeout_s: bound on opening a connection, seconds.
        read_timeout_s: bound on sending a command and on receiving its answer, seconds each.
        queue_timeout_s: bound on waiting for a free connection, seconds. Only a burst waits that long: a silent
            server opens the breaker, which sends the waiting away at once.

    Raises:
        ValueError: the address is not one of these.
    """
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": read_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "socket_read_size": 1 << 20,  # values of 2 MiB: 3.8 ms a read against 5.2 with the default of 64 KiB
        # Neither CLIENT SETINFO nor CLIENT MAINT_NOTIFICATIONS on connecting: two round trips and an ACL rule less,
        # and no server can relax the timeouts.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    scheme, separator, rest = url.partition("://")
    deadline_s = connect_timeout_s + 2.0 * read_timeout_s
    redis: Redis | RedisCluster
    try:
        if scheme in _CLUSTER_SCHEMES:
            # Follow a moved slot, and no more: starting over closes connections that other commands are using. A
            # failed connection still makes the library ask for the topology again.
            options["reinitialize_steps"] = 0
            redis = _Cluster.from_url(_CLUSTER_SCHEMES[scheme] + separator + rest, **options)
        elif scheme in _SENTINEL_SCHEMES:
            redis = master_client(_SENTINEL_SCHEMES[scheme], rest, options)
            deadline_s *= 2.0  # a new connection asks the sentinels first
        else:
            redis = Redis.from_pool(BlockingConnectionPool.from_url(url, timeout=queue_timeout_s, **options))
    except (ValueError, TypeError, RedisClusterException):
        # The library's message may quote a part of the password.
        raise ValueError(
            "The Redis URL is not valid; it starts with redis://, rediss://, unix://, redis+cluster://, "
            "rediss+cluster://, redis+sentinel:// or rediss+sentinel://, special characters in user and password are "
            "percent-encoded, a cluster has no database number, and sentinels are followed by /MASTER."
        ) from None
    return RedisClient(
        redis,
        max_connections=max_connections,
        queue_timeout_s=queue_timeout_s,
        deadline_s=deadline_s,
    )
