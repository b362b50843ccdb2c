"""The cache tier in Redis, which all replicas share. Every failure of Redis is a CacheUnavailable."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from redis.exceptions import ResponseError

from service.cache.base import Codec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.variants import settle_variant
from service.errors import CacheUnavailable
from service.sam.embedding import is_variant_key
from service.sam.embedding_bytes import CorruptValue
from service.telemetry.metrics import Metrics

V = TypeVar("V")
A = TypeVar("A")
R = TypeVar("R")

_TTL_JITTER = 0.1  # values written together do not expire together
_RETRY_AFTER_S = 1.0

# Run after a plain SET: a value of 2 MiB inside a script keeps the server busy for 5 ms instead of 1 ms.
SETTLE = """
local tombstone = redis.call('GET', KEYS[2])
if tombstone and tombstone ~= ARGV[1] then
    redis.call('UNLINK', KEYS[1])
    return 'refused'
end
redis.call('UNLINK', KEYS[2])
return redis.call('EXISTS', KEYS[1]) == 1 and 'kept' or 'missing'
"""
"""Script that keeps a value that was just stored (KEYS[1]), unless its tombstone (KEYS[2]) is not the known one."""


class RedisCache(Generic[V]):
    """A cache tier in Redis. The executor encodes and decodes values, so that the event loop never does.

    A value that is not valid counts as outcome "error". It is deleted, and the look-up is a miss.

    Args:
        client: Redis client, shared with other tiers and the lock. Its owner closes it.
        codec: Conversion between values and bytes.
        ttl_s: Time to live of a value after its last use, seconds, ± 10 %.
        breaker: Circuit breaker of this Redis.
        metrics: Metrics that count look-ups under the tier "redis".
        executor: Threads that run the codec.
        lookups: Whether look-ups are counted. False for values that should not show in the hit ratio.
        on_use: Function that is awaited with a key before its value is read, renewed or stored; None for none.
        transfers: Client of the commands that send or answer a value; None for `client`. Large values take few
            connections and more time, and no short command should wait behind them.
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
        on_use: Callable[[str], Awaitable[None]] | None = None,
        transfers: RedisClient | None = None,
    ) -> None:
        self.tier = "redis"
        self.ttl_s = ttl_s
        self._client = client
        self._codec = codec
        self._breaker = breaker
        self._executor = executor
        self._on_use = on_use
        self._transfers = transfers or client
        self._lookups = metrics.cache_lookups_total if lookups else None

    async def get(self, key: str) -> V | None:
        """Return the value and restart its time to live; None if there is none.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        try:
            await self._note_use(key)
            data = await self._transfer("GETEX", key, "PX", self._ttl_ms())
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
        """Store a value.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused (full and not evicting, read-only).
        """
        self._breaker.check()  # do not encode for a server that will not be asked
        data = await self._in_executor(self._codec.encode, value)
        await self._transfer("SET", key, data, "PX", self._ttl_ms())

    def encode(self, value: V) -> bytes:
        """Return the bytes to store, for `put_encoded`. Blocking.

        Raises:
            CacheUnavailable: Redis will not be asked now, so the bytes would not be used.
        """
        self._breaker.check()
        return self._codec.encode(value)

    async def put_encoded(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Store several values in one round trip.

        Args:
            values: Key and bytes of each value, see `encode`; at least one.

        Raises:
            CacheUnavailable: Redis did not confirm all of them in time, or refused.
        """
        await self._client.call_together(
            self._breaker, [("SET", key, data, "PX", self._ttl_ms()) for key, data in values]
        )

    async def put_unless_deleted(self, key: str, value: V, *, tombstone_key: str, known: str) -> bool:
        """Store a value and remove its tombstone, unless the tombstone is another than the known one.

        Beside an unknown tombstone the value exists for the time of a round trip, or longer if the second command is
        lost. If Redis refuses the second command, the value is removed.

        Args:
            key: Key of the value.
            value: Value to store.
            tombstone_key: Key of the tombstone, in the same slot of a cluster.
            known: Tombstone that may be there; "" for none.

        Returns:
            Whether the value is stored.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused; perhaps it has the value.
        """
        self._breaker.check()
        await self._note_use(key)
        data = await self._in_executor(self._codec.encode, value)
        for _ in range(2):  # another replica that had not read the tombstone may have removed the value
            await self._transfer("SET", key, data, "PX", self._ttl_ms())
            try:
                settled = await self._settle(key, tombstone_key, known)
            except CacheUnavailable as error:
                if isinstance(error.__cause__, ResponseError):  # a missing right: nothing would check the tombstone
                    await self.delete(key)
                raise
            if settled != b"missing":
                return bool(settled == b"kept")
        return True  # evicted twice, which a cache may do

    async def delete(self, key: str) -> bool:
        """Delete a value and return whether there was one.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    async def contains(self, key: str) -> bool:
        """Return whether there is a value, valid or not. Its time to live goes on.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "EXISTS", key))

    async def first_bytes(self, key: str, nbytes: int) -> bytes:
        """Return the first bytes of a value, valid or not; none if there is no value. Its time to live goes on.

        A user of Redis without the right GETRANGE reads the whole value.

        Args:
            key: Key of the value.
            nbytes: Number of bytes, at least 1.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        try:
            data = await self._client.call(self._breaker, "GETRANGE", key, 0, nbytes - 1)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            data = await self._transfer("GETEX", key) or b""
        if not isinstance(data, bytes):
            raise CacheUnavailable("The shared cache does not answer like Redis.", retry_after_s=_RETRY_AFTER_S)
        return data[:nbytes]

    async def renew(self, key: str) -> bool:
        """Restart the time to live of a value and return whether there is one.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        await self._note_use(key)
        return bool(await self._client.call(self._breaker, "PEXPIRE", key, self._ttl_ms()))

    async def aclose(self) -> None:
        """Do nothing: the client has another owner, and the values belong to all replicas."""

    async def _transfer(self, *command: str | bytes | int) -> Any:
        """Run a command that sends or answers a value."""
        return await self._transfers.call(self._breaker, *command)

    async def _settle(self, key: str, tombstone_key: str, known: str) -> Any:
        if is_variant_key(key):
            ttl_ms = max(1, round(self.ttl_s * 1000.0))
            return await settle_variant(self._client, self._breaker, key, known, ttl_ms=ttl_ms)
        return await self._client.call(self._breaker, "EVAL", SETTLE, 2, key, tombstone_key, known)

    async def _note_use(self, key: str) -> None:
        if self._on_use is not None:
            await self._on_use(key)

    async def _in_executor(self, function: Callable[[A], R], argument: A) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)

    async def _delete_corrupt(self, key: str) -> None:
        with contextlib.suppress(CacheUnavailable):  # it is a miss in any case, and the next reader tries again
            await self.delete(key)

    def _ttl_ms(self) -> int:
        jitter = random.uniform(1.0 - _TTL_JITTER, 1.0 + _TTL_JITTER)  # noqa: S311 - spreads expiry, hides nothing
        return max(1, round(self.ttl_s * 1000.0 * jitter))

    def _count(self, outcome: str) -> None:
        if self._lookups is not None:
            self._lookups.labels(self.tier, outcome).inc()
