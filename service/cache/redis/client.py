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
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MaxConnectionsError, RedisError, ResponseError

from service.cache.redis.breaker import CircuitBreaker
from service.errors import CacheUnavailable

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0


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
