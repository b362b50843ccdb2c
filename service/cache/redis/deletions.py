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
from service.cache.redis.pubsub import Subscription
from service.errors import CacheUnavailable

_log = logging.getLogger(__name__)

CHANNEL = "edgesam:forget"

# Twice the length of the longest sender and the longest key.
MAX_MESSAGE_BYTES = 512

# One script, so that no replica stores the value between the steps. A full Redis that takes no tombstone, and one that
# does not permit PUBLISH, still have to delete the value.
_DELETE = """
local was_there = redis.call('UNLINK', KEYS[1])
local set = redis.pcall('SET', KEYS[2], ARGV[4], 'PX', ARGV[1])
local published = redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return {was_there, set['err'] or type(published) == 'table' and published['err'] or ''}
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

        When this returns, Redis has sent the message to all subscribers of the node that ran the script. The other
        nodes of a cluster get it a moment later, without a confirmation.

        A Redis that deletes the value but refuses the tombstone or the message costs one line in the log.

        Args:
            key: Key of the value.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused. It may still have the value.
        """
        message = f"{self._sender} {key}"
        command = (2, key, tombstone_key(key), self._tombstone_ttl_ms, CHANNEL, message, _new_tombstone())
        try:
            was_there, refusal = await self._client.call(self._breaker, "EVAL", _DELETE, *command)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            was_there = await self._delete_unpublished(key)
            refusal = str(error.__cause__).encode()
        if refusal:
            self._log_refusal_once(refusal)
        return bool(was_there)

    async def tombstone(self, key: str) -> str:
        """Return the tombstone of a value that a replica deleted and none has stored anew since; "" for none.

        Args:
            key: Key of the value.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        found = await self._client.call(self._breaker, "GET", tombstone_key(key))
        return found.decode(errors="replace") if isinstance(found, bytes) else ""

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
            await self._client.call(
                self._breaker, "SET", tombstone_key(key), _new_tombstone(), "PX", self._tombstone_ttl_ms
            )
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    def _log_refusal_once(self, refusal: bytes) -> None:
        if not self._is_refusal_logged:
            self._is_refusal_logged = True
            _log.warning(
                "Redis does not let deletions be published to all replicas, which drop a deleted image later, or not "
                "at all: %s",
                refusal.decode(errors="replace"),
            )


def tombstone_key(key: str) -> str:
    """Return the key of a value's tombstone, in the same slot of a cluster."""
    return f"edgesam:deleted:{{{key}}}"


def is_older(tombstone: str, age_s: float) -> bool:
    """Return whether a tombstone is older than an age, by the clocks of two machines.

    Args:
        tombstone: Tombstone from `Deletions.tombstone`, not "". Text of another form is never older.
        age_s: Age to compare with, seconds.
    """
    set_at_ms = tombstone.partition(":")[0]
    return set_at_ms.isascii() and set_at_ms.isdigit() and int(set_at_ms) < (time() - age_s) * 1000.0


def _new_tombstone() -> str:
    """Return a unique tombstone, so that an upload that has read one tombstone does not remove another."""
    return f"{int(time() * 1000.0)}:{secrets.token_hex(8)}"
