"""Encoded copies of uploads in Redis, so that a region of an image can be embedded without a second upload.

A copy lives for the time of its setting after the upload; its use does not extend that. It belongs to a namespace, as
embeddings do. Deletions leave tombstones for copies as for embeddings, so that no upload that began before a deletion
stores one after it.
"""

import asyncio
import hashlib
from concurrent.futures import Executor
from contextlib import suppress

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.tier import SETTLE
from service.cache.redis.variants import tombstone_key
from service.errors import CacheUnavailable
from service.sam.embedding import kept_image_key

# One round trip: the copy's time to live begins anew, or the tombstone says which deletion came before the upload.
_RENEW = """
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 1 then return 1 end
return redis.call('GET', KEYS[2]) or ''
"""


class KeptImages:
    """The copies of this service's uploads.

    Args:
        client: Redis client, shared with the cache tiers.
        transfers: Client of the same Redis for the copies, which take few connections and more time.
        breaker: Circuit breaker of this Redis.
        ttl_s: Time for which a copy is kept after the upload, seconds.
        executor: Threads that check the bytes that Redis returns.
    """

    def __init__(
        self,
        client: RedisClient,
        transfers: RedisClient,
        breaker: CircuitBreaker,
        *,
        ttl_s: float,
        executor: Executor,
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._breaker = breaker
        self._ttl_ms = max(1, round(ttl_s * 1000.0))
        self._executor = executor

    async def renew(self, image_hash: str, namespace: str) -> str | None:
        """Restart the time to live of the copy of an image that is uploaded now.

        Args:
            image_hash: SHA-256 of the image's bytes.
            namespace: Namespace of the caller.

        Returns:
            None if there is a copy, or Redis does not answer, so that none can be stored. Otherwise the tombstone of an
            earlier deletion, "" for none, for `keep`.
        """
        key = kept_image_key(image_hash, namespace)
        try:
            found = await self._client.call(self._breaker, "EVAL", _RENEW, 2, key, tombstone_key(key), self._ttl_ms)
        except CacheUnavailable:
            return None
        return found.decode(errors="replace") if isinstance(found, bytes) else None

    async def keep(self, image_hash: str, namespace: str, data: bytes, *, known: str) -> None:
        """Store a copy, unless the image was deleted since its upload began. A Redis that refuses it costs nothing.

        Args:
            image_hash: SHA-256 of the image's bytes.
            namespace: Namespace of the caller.
            data: Bytes of the upload.
            known: Answer of `renew` at the start of the upload.
        """
        key = kept_image_key(image_hash, namespace)
        # In one round trip: a request that is cancelled in between would leave a copy whose tombstone nobody checks.
        commands = [
            ("SET", key, data, "PX", self._ttl_ms),
            ("EVAL", SETTLE, 2, key, tombstone_key(key), known),
        ]
        with suppress(CacheUnavailable):
            await self._transfers.call_together(self._breaker, commands)

    async def read(self, image_hash: str, namespace: str) -> bytes | None:
        """Return the copy of an image; None if there is none. Its time to live goes on.

        Args:
            image_hash: SHA-256 of the image's bytes. Other bytes under its key are removed.
            namespace: Namespace of the caller.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        key = kept_image_key(image_hash, namespace)
        data = await self._transfers.call(self._breaker, "GET", key)
        if not isinstance(data, bytes):
            return None
        found = await asyncio.get_running_loop().run_in_executor(self._executor, hashlib.sha256, data)
        if found.hexdigest() == image_hash:
            return data
        await self._client.call(self._breaker, "UNLINK", key)
        return None
