"""Commands to Redis within bounds: of connections, of waiting, and of the time of one command."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MaxConnectionsError, RedisError, ResponseError

from service.cache.redis.acl import missing_right
from service.cache.redis.breaker import CircuitBreaker
from service.errors import CacheUnavailable

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0

Command = tuple[str | bytes | int, ...]
"""Name and arguments of a command."""


class RedisClient:
    """A bounded client of one Redis or one cluster, made by `connect`, which explains the bounds.

    Args:
        redis: Client of the library.
        max_connections: Commands that run at the same time.
        queue_timeout_s: Longest wait for a free connection, seconds.
        deadline_s: Longest time of one command, seconds.
    """

    def __init__(
        self, redis: Redis | RedisCluster, *, max_connections: int, queue_timeout_s: float, deadline_s: float
    ) -> None:
        self._redis = redis
        self._permits = asyncio.Semaphore(max_connections)
        self._queue_timeout_s = queue_timeout_s
        self._deadline_s = deadline_s
        self._running: set[asyncio.Task[Any]] = set()
        self._logged_refusals: set[str] = set()
        self._is_closed = False

    async def call(self, breaker: CircuitBreaker, *command: str | bytes | int) -> Any:
        """Run one command and report to the breaker whether the server answered.

        A refusal by the server (out of memory, read-only, no permission) is an answer. It does not count towards
        opening the breaker, because a full Redis still serves reads. The lack of a free connection does not count
        either: it is the load of this process.

        A cancelled caller returns at once. Its command ends by itself within its bound, so that no connection is left
        half-read and no probe of the breaker stays without a result.

        Args:
            breaker: Circuit breaker of this server.
            command: Name and arguments of the command.

        Raises:
            CacheUnavailable: There is no answer; the cause is chained.
        """
        script = str(command[1]) if command[0] == "EVAL" else ""
        return await self._call(breaker, lambda: self._redis.execute_command(*command), script)

    async def call_together(self, breaker: CircuitBreaker, commands: Sequence[Command]) -> list[Any]:
        """Run several commands in one round trip, on one connection to each server, as `call` runs one.

        Args:
            breaker: Circuit breaker of this server.
            commands: Commands that do not depend on each other, at least one.

        Raises:
            CacheUnavailable: A command has no answer, or was refused; the others may have been run.
        """
        answers: list[Any] = await self._call(breaker, lambda: self._send_together(commands))
        return answers

    async def subscriber_connection(self) -> AbstractConnection:
        """Return a connection for Pub/Sub, not open yet, which does not count towards `max_connections`.

        The caller opens and closes it. In a cluster it is a connection to any of its nodes. It speaks RESP2: in RESP3
        the library formats each message for a log that is not used.
        """
        redis = self._redis
        if isinstance(redis, Redis):
            pool = redis.connection_pool
            return pool.connection_class(**(pool.connection_kwargs | {"protocol": 2}))
        await redis.initialize()
        node = random.choice(redis.get_nodes())  # noqa: S311 - each is as good
        return node.connection_class(**(node.connection_kwargs | {"protocol": 2}))

    def log_refusal(self, error: ResponseError, script: str = "") -> None:
        """Log why the server refuses, once for each missing right and each other kind of refusal.

        Neither the breaker nor a failed request shows the operator that Redis is full or does not permit a command.

        Args:
            error: Answer of the server.
            script: Text of the script that was refused; "" for a command.
        """
        right = missing_right(error, script)
        kind = right or type(error).__name__
        if kind in self._logged_refusals:
            return
        self._logged_refusals.add(kind)
        if right is None:
            _log.warning("Redis refuses commands: %s", error)
        else:
            _log.warning("The Redis user lacks the right %s: add it to the ACL rules of the user (%s)", right, error)

    async def aclose(self) -> None:
        """Refuse new commands, wait for the running ones, each of which is bounded, and close every connection."""
        self._is_closed = True
        await asyncio.gather(*self._running, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):  # a silent server must not keep the process from stopping
            await self._redis.aclose()

    async def _call(self, breaker: CircuitBreaker, send: Callable[[], Awaitable[Any]], script: str = "") -> Any:
        breaker.check()
        await self._take_permit()
        try:
            task = self._start(breaker, send, script)
        except CacheUnavailable:
            self._permits.release()
            raise
        return await asyncio.shield(task)

    async def _send_together(self, commands: Sequence[Command]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            # By itself the library writes the whole command, values as well, into the text of a refusal.
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _take_permit(self) -> None:
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await self._permits.acquire()
        except TimeoutError as error:
            raise CacheUnavailable(
                "All connections to the shared cache are busy.", retry_after_s=_RETRY_AFTER_S
            ) from error

    def _start(self, breaker: CircuitBreaker, send: Callable[[], Awaitable[Any]], script: str) -> asyncio.Task[Any]:
        if self._is_closed:
            raise CacheUnavailable("The service is stopping.", retry_after_s=_RETRY_AFTER_S)
        breaker.admit()  # it may have opened during the wait for the permit
        task = asyncio.create_task(self._run(breaker, send, script), name="redis-command")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._permits.release()

    async def _run(self, breaker: CircuitBreaker, send: Callable[[], Awaitable[Any]], script: str) -> Any:
        try:
            async with asyncio.timeout(self._deadline_s):
                # The client of a cluster sends commands to any node as long as it has not loaded the slots.
                await self._redis.initialize()
                answer = await send()
        except MaxConnectionsError as error:
            raise CacheUnavailable(
                "All connections to the shared cache are busy.", retry_after_s=_RETRY_AFTER_S
            ) from error
        except ResponseError as error:
            breaker.succeeded()
            self.log_refusal(error, script)
            raise CacheUnavailable("The shared cache refused the command.", retry_after_s=_RETRY_AFTER_S) from error
        except Exception as error:
            # The library raises many types for a broken or foreign server. The tier only degrades.
            breaker.failed()
            raise CacheUnavailable("The shared cache did not answer.", retry_after_s=_RETRY_AFTER_S) from error
        breaker.succeeded()
        return answer
