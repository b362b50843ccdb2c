"""A lock in Redis, so that one replica encodes an image. It expires if its owner is lost."""

import asyncio
import secrets
from contextlib import suppress

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable

# One key each, so that a cluster can run them.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('UNLINK', KEYS[1])
end
return 0
"""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""


class RedisLock:
    """Locks by key. They only save work: a replica that does not get a lock, or loses it, may still do the work.

    A lost owner never blocks the others for longer than `ttl_s`.

    Args:
        client: Redis client, shared with the cache tiers.
        breaker: Circuit breaker of this Redis.
        ttl_s: Time until a lock expires that is not renewed, seconds.
        prefix: Text before every key.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, ttl_s: float, prefix: str = "lock:") -> None:
        self._client = client
        self._breaker = breaker
        self._ttl_ms = max(1, round(ttl_s * 1000.0))
        self._prefix = prefix
        self._abandoned: set[asyncio.Task[None]] = set()

    async def acquire(self, key: str) -> str | None:
        """Take the lock without waiting. Return the token of the owner, or None while another owner has the lock.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused; the lock may be held until it expires.
        """
        token = secrets.token_hex(16)
        command = ("SET", self._prefix + key, token, "NX", "PX", self._ttl_ms)
        taking = asyncio.ensure_future(self._client.call(self._breaker, *command))
        try:
            is_taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # The command may still succeed. Without the token, the image would have to wait until the lock expires.
            abandoned = asyncio.create_task(self._release_abandoned(key, token, taking))
            self._abandoned.add(abandoned)
            abandoned.add_done_callback(self._abandoned.discard)
            raise
        return token if is_taken else None

    async def renew(self, key: str, token: str) -> bool:
        """Restart the lock's time to live; False if the owner has lost the lock.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "EVAL", _RENEW, 1, self._prefix + key, token, self._ttl_ms))

    async def release(self, key: str, token: str) -> None:
        """Release the lock, unless it has expired and has another owner by now.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused; the lock expires by itself.
        """
        await self._client.call(self._breaker, "EVAL", _RELEASE, 1, self._prefix + key, token)

    async def _release_abandoned(self, key: str, token: str, taking: asyncio.Future[object]) -> None:
        with suppress(CacheUnavailable):
            if await taking:
                await self.release(key, token)
