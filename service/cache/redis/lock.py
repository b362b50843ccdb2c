"""One encoder a picture across replicas: a lock in Redis that expires with its owner."""

import asyncio
import secrets
from contextlib import suppress

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable

# One key each, so that a cluster can run them. GETEX reads here without touching the time to live; it is used instead
# of GET, and once more instead of PEXPIRE, so that the ACL user needs no further command.
_RELEASE = """
if redis.call('GETEX', KEYS[1]) == ARGV[1] then
    return redis.call('UNLINK', KEYS[1])
end
return 0
"""
_RENEW = """
if redis.call('GETEX', KEYS[1]) == ARGV[1] then
    redis.call('GETEX', KEYS[1], 'PX', ARGV[2])
    return 1
end
return 0
"""


class RedisLock:
    """Locks by key. It saves work and guards nothing: who cannot have it, or loses it, may still do the work.

    An owner that is lost never blocks the others for longer than `ttl_s`.

    Args:
        client: shared with the Redis tiers.
        breaker: shared by everything that asks this Redis.
        ttl_s: seconds until a lock that is not renewed expires.
        prefix: put before every key.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, ttl_s: float, prefix: str = "lock:") -> None:
        self._client = client
        self._breaker = breaker
        self._ttl_ms = max(1, round(ttl_s * 1000.0))
        self._prefix = prefix
        self._abandoned: set[asyncio.Task[None]] = set()

    async def acquire(self, key: str) -> str | None:
        """Take the lock without waiting: the token that proves the ownership, or None while another has it.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused; the lock may be held until it expires.
        """
        token = secrets.token_hex(16)
        command = ("SET", self._prefix + key, token, "NX", "PX", self._ttl_ms)
        taking = asyncio.ensure_future(self._client.call(self._breaker, *command))
        try:
            is_taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # The command may still succeed, and nobody would know the token: the picture would wait for the lock's end.
            abandoned = asyncio.create_task(self._give_back(key, token, taking))
            self._abandoned.add(abandoned)
            abandoned.add_done_callback(self._abandoned.discard)
            raise
        return token if is_taken else None

    async def renew(self, key: str, token: str) -> bool:
        """Start the lock's time anew; False if it is no longer this owner's.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "EVAL", _RENEW, 1, self._prefix + key, token, self._ttl_ms))

    async def release(self, key: str, token: str) -> None:
        """Give the lock back, unless it has expired and belongs to somebody else by now.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused; the lock expires by itself.
        """
        await self._client.call(self._breaker, "EVAL", _RELEASE, 1, self._prefix + key, token)

    async def _give_back(self, key: str, token: str, taking: asyncio.Future[object]) -> None:
        with suppress(CacheUnavailable):
            if await taking:
                await self.release(key, token)
