"""The tier that all replicas share: bytes in Redis, every command bounded, every failure one CacheUnavailable."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

from service.cache.base import Codec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable
from service.sam.embedding import CorruptValue
from service.telemetry.metrics import Metrics

V = TypeVar("V")
A = TypeVar("A")
R = TypeVar("R")

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

    async def put_unless_deleted(self, key: str, value: V, *, tombstone_key: str, known: str) -> bool:
        """Keep a value and take its mark away, or keep nothing where an unknown mark is.

        Beside an unknown mark the value is there for the time of a round trip, or if the second command is lost.

        Args:
            key: of the value.
            value: to keep.
            tombstone_key: key of the mark, in the slot of the value's.
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
            settled = await self._client.call(self._breaker, "EVAL", _SETTLE, 2, key, tombstone_key, known)
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
