"""Values that were deleted on purpose: told to all replicas, and marked in Redis for those that did not hear it.

A replica that holds the value in memory would else put it back, since to it a deleted value and one that Redis lost
look alike. The mark tells them apart: nothing stays beside one for longer than a round trip (`RedisCache.put_unless_deleted`),
but what an upload stored that knows this very mark, since it began after it. The mark is a key of its own, in the slot
of the value's, so that a cluster takes both in one script.
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

# Twice what the longest name and the longest key have.
MAX_MESSAGE_BYTES = 512

# All at once: nobody stores the value between its end and the message. Neither a full Redis, which takes no mark, nor
# one that lets nothing be told may keep the value.
_DELETE = """
local was_there = redis.call('UNLINK', KEYS[1])
local marked = redis.pcall('SET', KEYS[2], ARGV[4], 'PX', ARGV[1])
local told = redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return {was_there, marked['err'] or type(told) == 'table' and told['err'] or ''}
"""


class Deletions:
    """Deletes everywhere, and says what was deleted elsewhere.

    Args:
        client: shared with the Redis tiers.
        breaker: shared by everything that asks this Redis.
        tombstone_ttl_s: seconds a mark is kept.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, tombstone_ttl_s: float) -> None:
        self._client = client
        self._breaker = breaker
        self._mark_ttl_ms = max(1, round(tombstone_ttl_s * 1000.0))
        self._sender = secrets.token_hex(8)  # a replica need not hear itself
        self._is_silence_told = False

    async def delete(self, key: str) -> bool:
        """Forget a value, mark it, and tell; whether there was one.

        When this returns, Redis has the message, and has sent it to all that listen to the node it was told to; the
        other nodes of a cluster get it a moment later, without anybody's word for it.

        A Redis that takes the value away and does not let it be told, or marked, costs one line in the log.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused; it may still have the value.
        """
        message = f"{self._sender} {key}"
        command = (2, key, tombstone_key(key), self._mark_ttl_ms, CHANNEL, message, _new_tombstone())
        try:
            was_there, refusal = await self._client.call(self._breaker, "EVAL", _DELETE, *command)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            was_there = await self._delete_here(key)
            refusal = str(error.__cause__).encode()
        if refusal:
            self._say_once(refusal)
        return bool(was_there)

    async def tombstone(self, key: str) -> str:
        """The mark of a value that was deleted, by any replica, and that none has stored anew since; "" for none.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        tombstone = await self._client.call(self._breaker, "GETEX", tombstone_key(key))
        return tombstone.decode(errors="replace") if isinstance(tombstone, bytes) else ""

    def subscription(self, *, heard: Callable[[str], None], began: Callable[[], None]) -> Subscription:
        """What calls `heard` with each key that another replica deletes; not started yet.

        Args:
            heard: the key may be anything that is text; whoever can speak on the channel wrote it.
            began: is called when listening has begun; what was said before was missed.
        """

        def hear(message: bytes) -> None:
            if len(message) <= MAX_MESSAGE_BYTES and message.isascii():
                sender, _, key = message.decode().partition(" ")
                if sender != self._sender:
                    heard(key)

        return Subscription(self._client, CHANNEL, heard=hear, began=began)

    async def _delete_here(self, key: str) -> bool:
        """Without the script: the others are not told."""
        with suppress(CacheUnavailable):  # first, so that nothing is stored between the two
            await self._client.call(self._breaker, "SET", tombstone_key(key), _new_tombstone(), "PX", self._mark_ttl_ms)
        return bool(await self._client.call(self._breaker, "UNLINK", key))

    def _say_once(self, refusal: bytes) -> None:
        if not self._is_silence_told:
            self._is_silence_told = True
            _log.warning(
                "Redis does not let deletions be told to all replicas, which forget a picture later, or not at all: %s",
                refusal.decode(errors="replace"),
            )


def tombstone_key(key: str) -> str:
    """Where the mark of a value is, in the same slot of a cluster."""
    return f"edgesam:deleted:{{{key}}}"


def is_older(tombstone: str, age_s: float) -> bool:
    """Whether a mark was set so long ago, by the clocks of two machines; False for what is no mark of ours.

    Args:
        tombstone: as `Deletions.tombstone` gives it, not "".
        age_s: seconds.
    """
    set_at_ms = tombstone.partition(":")[0]
    return set_at_ms.isascii() and set_at_ms.isdigit() and int(set_at_ms) < (time() - age_s) * 1000.0


def _new_tombstone() -> str:
    """Like no other, so that an upload that knows one does not take another away."""
    return f"{int(time() * 1000.0)}:{secrets.token_hex(8)}"
