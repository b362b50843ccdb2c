"""Deletions of values by every replica: published to all replicas, and recorded in Redis as tombstones.

Without tombstones a replica with a deleted value in memory would store it again: a deleted value looks like one that
Redis lost. No value stays beside a tombstone for longer than a round trip (`RedisCache.put_unless_deleted`). The
exception is an upload that began after the deletion and has read the tombstone. The tombstone is a key of its own, in
the slot of the value's key, so that a cluster accepts both in one script.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from time import time

from redis.exceptions import ResponseError

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.everything_keys import result_keys
from service.cache.redis.pubsub import Subscription
from service.cache.redis.variants import VariantKeys, delete_variants, tombstone_key, variant_tombstone
from service.errors import CacheUnavailable
from service.sam.embedding import is_variant_key

_log = logging.getLogger(__name__)

CHANNEL = "edgesam:forget"

# Twice the length of the longest sender and the longest key.
MAX_MESSAGE_BYTES = 512

# Keys after the first two: tombstone of the image with all its variants.
# One script, so that no replica stores the value between the steps. A full Redis that takes no tombstone, and one that
# does not permit PUBLISH, still have to delete the value.
_DELETE = """
local was_there = redis.call('UNLINK', KEYS[1])
local refusal = ''
for i = 2, #KEYS do
    local set = redis.pcall('SET', KEYS[i], ARGV[4], 'PX', ARGV[1])
    refusal = set['err'] or refusal
end
local published = redis.pcall('PUBLISH', ARGV[2], ARGV[3])
if refusal == '' then refusal = type(published) == 'table' and published['err'] or '' end
return {was_there, refusal}
"""


class Deletions:
    """Deletes values for all replicas, and receives the deletions of the others.

    Args:
        client: Redis client, shared with the cache tiers.
        breaker: Circuit breaker of this Redis.
        tombstone_ttl_s: Time to live of a tombstone, seconds.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, tombstone_ttl_s: float) -> None:
        self._client = client
        self._breaker = breaker
        self._tombstone_ttl_ms = max(1, round(tombstone_ttl_s * 1000.0))
        self._sender = secrets.token_hex(8)  # a replica ignores its own messages
        self._is_refusal_logged = False

    async def delete(self, key: str) -> bool:
        """Delete a value, set its tombstone and publish the deletion. Return whether there was a value.

        The deletion of an image deletes its variants, too. The everything results of the image, its variants and its
        regions are deleted with any of them: they can be computed again.

        When this returns, Redis has sent the message to all subscribers of the node that ran the script. The other
        nodes of a cluster get it a moment later, without a confirmation.

        A Redis that deletes the value but refuses the tombstone or the message costs one line in the log.

        Args:
            key: Key of the value.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused. It may still have the value.
        """
        message = f"{self._sender} {key}"
        tombstones = _tombstones(key)
        arguments = (self._tombstone_ttl_ms, CHANNEL, message, _new_tombstone())
        command: tuple[str | int, ...] = (1 + len(tombstones), key, *tombstones, *arguments)
        try:
            was_there, refusal = await self._client.call(self._breaker, "EVAL", _DELETE, *command)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            was_there = await self._delete_unpublished(key)
            refusal = str(error.__cause__).encode()
        if refusal:
            self._log_refusal_once(refusal)
        if not is_variant_key(key):
            was_there = await delete_variants(self._client, self._breaker, key) or was_there
        # Last, so that a result that is stored meanwhile finds the tombstone, or is deleted here.
        await self._client.call(self._breaker, "UNLINK", *result_keys(key))
        return bool(was_there)

    async def tombstone(self, key: str) -> str:
        """Return the tombstone of a value that a replica deleted and none has stored anew since; "" for none.

        Args:
            key: Key of the value.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        if is_variant_key(key):
            return await variant_tombstone(self._client, self._breaker, key, index_ttl_ms=2 * self._tombstone_ttl_ms)
        found = await self._client.call(self._breaker, "GET", tombstone_key(key))
        return found.decode(errors="replace") if isinstance(found, bytes) else ""

    async def remove_deleted_variant(self, key: str) -> bool:
        """Return whether a stored value is a variant that was deleted with its image, and remove it then.

        A deletion finds the variants of an image by an index, which Redis may have evicted before.

        Args:
            key: Key of a value that Redis has.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        if not is_variant_key(key) or not await self.tombstone(key):
            return False
        await self._client.call(self._breaker, "UNLINK", key)
        return True

    async def remove(self, key: str) -> bool:
        """Delete a value without a tombstone, and return whether there was one.

        Args:
            key: Key of a value that this replica never stores.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    def subscription(self, *, on_deletion: Callable[[str], None], on_subscribed: Callable[[], None]) -> Subscription:
        """Return a subscription to the deletions of the other replicas; it is not started yet.

        Args:
            on_deletion: Function that gets the key of each deleted value. The key may be any text, since every user
                with the right to publish on the channel can send it.
            on_subscribed: Function that is called when the subscription begins, at first and after each outage.
                Messages from before are missed.
        """

        def receive(message: bytes) -> None:
            if len(message) <= MAX_MESSAGE_BYTES and message.isascii():
                sender, _, key = message.decode().partition(" ")
                if sender != self._sender:
                    on_deletion(key)

        return Subscription(self._client, CHANNEL, on_message=receive, on_subscribed=on_subscribed)

    async def _delete_unpublished(self, key: str) -> bool:
        """Delete without the script, so without a message to the other replicas."""
        with suppress(CacheUnavailable):  # the tombstone first, so that no replica stores the value between the two
            for tombstone in _tombstones(key):
                await self._client.call(self._breaker, "SET", tombstone, _new_tombstone(), "PX", self._tombstone_ttl_ms)
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    def _log_refusal_once(self, refusal: bytes) -> None:
        if not self._is_refusal_logged:
            self._is_refusal_logged = True
            _log.warning(
                "Redis does not let deletions be published to all replicas, which drop a deleted image later, or not "
                "at all: %s",
                refusal.decode(errors="replace"),
            )


def _tombstones(key: str) -> tuple[str, ...]:
    """Return the keys of the tombstones that the deletion of a key sets."""
    return (tombstone_key(key),) if is_variant_key(key) else (tombstone_key(key), VariantKeys(key).all_deleted)


def is_older(tombstone: str, age_s: float) -> bool:
    """Return whether a tombstone is older than an age, by the clocks of two machines.

    Args:
        tombstone: Tombstone from `Deletions.tombstone`, not "". Text of another form is never older.
        age_s: Age to compare with, seconds.
    """
    times_ms = [each.partition(":")[0] for each in tombstone.split(" ")]  # a variant may have two
    return all(each.isascii() and each.isdigit() and int(each) < (time() - age_s) * 1000.0 for each in times_ms)


def _new_tombstone() -> str:
    """Return a unique tombstone, so that an upload that has read one tombstone does not remove another."""
    return f"{int(time() * 1000.0)}:{secrets.token_hex(8)}"
