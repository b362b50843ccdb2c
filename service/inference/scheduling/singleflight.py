"""One computation for all who ask for the same key: in this process, and across replicas through Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.cache.base import Cache
from service.cache.redis.lock import RedisLock
from service.errors import CacheUnavailable

Value = TypeVar("Value")

# Waiters look again this often; the time doubles up to the second figure.
_FIRST_POLL_S, _LAST_POLL_S = 0.02, 0.2


@dataclass(slots=True)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiters: int = 0


class SingleFlight(Generic[Value]):
    """Callers of one key share one task. It is cancelled when the last of them has gone, not before."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Value]] = {}

    async def run(self, key: str, compute: Callable[[], Awaitable[Value]]) -> Value:
        """Join the flight of `key`, or start it with `compute`; its error reaches everybody who waits."""
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.create_task(self._fly(key, compute), name=f"flight {key}"))
            self._flights[key] = flight
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                # Nobody may join a flight that is being cancelled.
                self._forget(key, flight)
                flight.task.cancel()
                await asyncio.wait({flight.task})
                if not flight.task.cancelled():
                    flight.task.exception()  # nobody is left who could be told

    async def settle(self, key: str) -> None:
        """Wait until nobody computes `key`, however that ends."""
        flight = self._flights.get(key)
        if flight is not None:
            await asyncio.wait({flight.task})

    def detach(self, key: str) -> None:
        """Whoever comes from now on starts anew; those who wait go on waiting for what is computed now."""
        self._flights.pop(key, None)

    async def _fly(self, key: str, compute: Callable[[], Awaitable[Value]]) -> Value:
        try:
            return await compute()
        finally:
            flight = self._flights.get(key)
            if flight is not None and flight.task is asyncio.current_task():
                del self._flights[key]

    def _forget(self, key: str, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class Lease:
    """The right to compute one key, renewed until it is given back; without a lock where Redis cannot be asked."""

    def __init__(self, lock: RedisLock, key: str, token: str | None, renew_every_s: float) -> None:
        self._lock = lock
        self._key = key
        self._token = token
        self._renewal = asyncio.create_task(self._renew(renew_every_s), name=f"renew {key}") if token else None

    async def release(self) -> None:
        """Let the next replica in; to be called when the value is in the shared cache, or will never be."""
        if self._renewal is None or self._token is None:
            return
        self._renewal.cancel()
        with suppress(asyncio.CancelledError):
            await self._renewal
        with suppress(CacheUnavailable):  # the lock expires by itself
            await self._lock.release(self._key, self._token)

    async def _renew(self, every_s: float) -> None:
        if self._token is None:
            return
        while True:
            await asyncio.sleep(every_s)
            with suppress(CacheUnavailable):  # at worst the lock expires and two replicas compute
                await self._lock.renew(self._key, self._token)


class SharedFlight(Generic[Value]):
    """One replica computes a key while the others wait for its value in the shared cache.

    The lock expires unless it is renewed, so a lost owner blocks nobody for longer than `ttl_s`. When Redis cannot be
    asked everybody computes: double work is better than none.
    """

    def __init__(self, cache: Cache[Value], lock: RedisLock, *, ttl_s: float) -> None:
        self._cache = cache
        self._lock = lock
        self._ttl_s = ttl_s

    async def claim(self, key: str) -> Value | Lease:
        """The value, as soon as another replica has stored it, or a lease to compute it oneself.

        The wait has no bound of its own: the caller's deadline is the bound.
        """
        poll_s = _FIRST_POLL_S
        while True:
            try:
                token = await self._lock.acquire(key)
                if token is not None:
                    return await self._look_again(key, self._lease(key, token))
                await asyncio.sleep(poll_s)
                poll_s = min(2 * poll_s, _LAST_POLL_S)
                if (value := await self._stored(key)) is not None:
                    return value
            except CacheUnavailable:
                return self._lease(key, None)

    async def _look_again(self, key: str, lease: Lease) -> Value | Lease:
        """The lease, or the value if another replica stored it, and let go, after this one had looked for it."""
        try:
            value = await self._stored(key)
        except CacheUnavailable:
            return lease
        except BaseException:  # the caller has gone
            await lease.release()
            raise
        if value is None:
            return lease
        await lease.release()
        return value

    async def _stored(self, key: str) -> Value | None:
        """The shared cache's value; asking for it first keeps polls out of the count of look-ups."""
        return await self._cache.get(key) if await self._cache.contains(key) else None

    def _lease(self, key: str, token: str | None) -> Lease:
        return Lease(self._lock, key, token, self._ttl_s / 3)
