"""Single flight: one computation for all requests with the same key, in this process and across replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.cache.base import Cache
from service.cache.redis.lock import RedisLock
from service.errors import CacheUnavailable
from service.telemetry.timings import Timings

Value = TypeVar("Value")

# Seconds until a waiting replica looks again. The time doubles from the first figure up to the second.
_FIRST_POLL_S, _LAST_POLL_S = 0.02, 0.2


@dataclass(slots=True)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiters: int = 0


class SingleFlight(Generic[Value]):
    """Requests for one key share one computation. It is cancelled when the last of them is cancelled, not before."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Value]] = {}

    async def run(self, key: str, compute: Callable[[], Awaitable[Value]], timings: Timings) -> Value:
        """Join the computation of a key, or start it. An error of it reaches all requests that wait.

        Args:
            key: Key of the value.
            compute: Function that computes the value, called if no computation of the key is running.
            timings: Stage timings of the current request. Joining is recorded as stage `wait`.
        """
        flight = self._flights.get(key)
        if flight is not None:
            with timings.measure("wait"):
                return await self._join(key, flight)
        flight = _Flight(asyncio.create_task(self._fly(key, compute), name=f"flight {key}"))
        self._flights[key] = flight
        return await self._join(key, flight)

    def is_running(self, key: str) -> bool:
        """Return whether a computation of the key is running that requests can join."""
        return key in self._flights

    async def settle(self, is_meant: Callable[[str], bool]) -> None:
        """Wait until none of these computations is running. Their errors are not raised.

        Args:
            is_meant: Function that returns whether the computation of a key is waited for.
        """
        tasks = {flight.task for key, flight in self._flights.items() if is_meant(key)}
        if tasks:
            await asyncio.wait(tasks)

    def detach(self, is_meant: Callable[[str], bool]) -> None:
        """Let later requests compute anew. Those that wait already get the value that is computed now.

        Args:
            is_meant: Function that returns whether the computation of a key is detached.
        """
        for key in [key for key in self._flights if is_meant(key)]:
            del self._flights[key]

    async def _join(self, key: str, flight: _Flight[Value]) -> Value:
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                self._remove(key, flight)  # a later request must not join a computation that is being cancelled
                flight.task.cancel()
                await asyncio.wait({flight.task})
                if not flight.task.cancelled():
                    flight.task.exception()  # retrieved, so that asyncio does not report it: no request waits for it

    async def _fly(self, key: str, compute: Callable[[], Awaitable[Value]]) -> Value:
        try:
            return await compute()
        finally:
            flight = self._flights.get(key)
            if flight is not None and flight.task is asyncio.current_task():
                del self._flights[key]

    def _remove(self, key: str, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class Lease:
    """The right to compute one key. Its lock in Redis is renewed until the lease is released.

    Args:
        lock: Locks of all replicas.
        key: Key of the value.
        token: Proof that this replica holds the lock; None for a lease without a lock, where Redis does not answer.
        renew_every_s: Seconds between two renewals of the lock.
    """

    def __init__(self, lock: RedisLock, key: str, token: str | None, renew_every_s: float) -> None:
        self._lock = lock
        self._key = key
        self._token = token
        self._renewal = asyncio.create_task(self._renew(renew_every_s), name=f"renew {key}") if token else None

    async def release(self) -> None:
        """Release the lock. Call it when the value is in the shared cache, or will not be computed."""
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
    """One replica computes a key, while the others wait for its value in the shared cache.

    The lock expires unless it is renewed. So a replica that was killed blocks the others for at most `ttl_s`. When
    Redis does not answer, every replica computes: double work is better than none.

    Args:
        cache: Shared cache of the values.
        lock: Locks of all replicas.
        ttl_s: Seconds until a lock expires that is not renewed.
    """

    def __init__(self, cache: Cache[Value], lock: RedisLock, *, ttl_s: float) -> None:
        self._cache = cache
        self._lock = lock
        self._ttl_s = ttl_s

    async def claim(self, key: str, timings: Timings) -> Value | Lease:
        """Return the value as soon as another replica has stored it, or a lease to compute it here.

        The wait has no bound of its own: the deadline of the request is its bound.

        Args:
            key: Key of the value.
            timings: Stage timings of the current request. A wait for another replica is recorded as stage `wait`.
        """
        try:
            token = await self._lock.acquire(key)
            if token is not None:
                return await self._look_again(key, self._lease(key, token))
            with timings.measure("wait"):
                return await self._wait(key)
        except CacheUnavailable:
            return self._lease(key, None)

    async def _wait(self, key: str) -> Value | Lease:
        """Poll for the value of another replica, and for its lock.

        Raises:
            CacheUnavailable: Redis does not answer any more.
        """
        poll_s = _FIRST_POLL_S
        while True:
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, _LAST_POLL_S)
            if (value := await self._stored(key)) is not None:
                return value
            token = await self._lock.acquire(key)
            if token is not None:
                return await self._look_again(key, self._lease(key, token))

    async def _look_again(self, key: str, lease: Lease) -> Value | Lease:
        """Return the lease, or the value if another replica stored it after this one had looked for it."""
        try:
            value = await self._stored(key)
        except CacheUnavailable:
            return lease
        except BaseException:  # the request was cancelled
            await lease.release()
            raise
        if value is None:
            return lease
        await lease.release()
        return value

    async def _stored(self, key: str) -> Value | None:
        """Return the shared cache's value. `contains` comes first, since it does not count as a look-up."""
        return await self._cache.get(key) if await self._cache.contains(key) else None

    def _lease(self, key: str, token: str | None) -> Lease:
        return Lease(self._lock, key, token, self._ttl_s / 3)
