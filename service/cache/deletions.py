"""Values that were deleted on purpose: told to all replicas, and marked in Redis for those that did not hear it.

A replica that holds the value in memory would else put it back, since to it a deleted value and one that Redis lost
look alike. The mark tells them apart. It is a key of its own, in the slot of the value's, so that a cluster takes both
in one script.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import ResponseError

from service.cache.breaker import CircuitBreaker
from service.cache.redis import RedisClient
from service.cache.subscription import Subscription
from service.errors import CacheUnavailable

_log = logging.getLogger(__name__)

CHANNEL = "edgesam:forget"

# Twice what the longest name and the longest key have.
MAX_MESSAGE_BYTES = 512

# All at once: nobody stores the value between its end and the message. Neither a full Redis, which takes no mark, nor
# one that lets nothing be told may keep the value.
_DELETE = """
local was_there = redis.call('UNLINK', KEYS[1])
redis.pcall('SET', KEYS[2], '1', 'PX', ARGV[1])
local told = redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return {was_there, type(told) == 'table' and told['err'] or ''}
"""


class Deletions:
    """Deletes everywhere, and says what was deleted elsewhere.

    Args:
        client: shared with the Redis tiers.
        breaker: shared by everything that asks this Redis.
        mark_ttl_s: seconds a mark is kept.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, mark_ttl_s: float) -> None:
        self._client = client
        self._breaker = breaker
        self._mark_ttl_ms = max(1, round(mark_ttl_s * 1000.0))
        self._sender = secrets.token_hex(8)  # a replica need not hear itself
        self._is_silence_told = False

    async def delete(self, key: str) -> bool:
        """Forget a value, mark it, and tell; whether there was one. When this returns, the message is out.

        A Redis that takes the value away and does not let it be told costs one line in the log.

        Raises:
            CacheUnavailable: Redis did not confirm in time, or refused; it may still have the value.
        """
        command = (2, key, _mark(key), self._mark_ttl_ms, CHANNEL, f"{self._sender} {key}")
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

    async def is_deleted(self, key: str) -> bool:
        """Whether the value was deleted, by any replica, and none has stored it anew.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        return bool(await self._client.call(self._breaker, "EXISTS", _mark(key)))

    async def enforce(self, key: str) -> None:
        """Delete the value once more, if it is one that was deleted.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        if await self.is_deleted(key):
            await self._client.call(self._breaker, "UNLINK", key)

    async def revoke(self, key: str) -> None:
        """Take the mark away; to be called before the value is stored anew.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        await self._client.call(self._breaker, "UNLINK", _mark(key))

    def listen(self, *, heard: Callable[[str], None], began: Callable[[], None]) -> Subscription:
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
        was_there = bool(await self._client.call(self._breaker, "UNLINK", key))
        with suppress(CacheUnavailable):
            await self._client.call(self._breaker, "SET", _mark(key), "1", "PX", self._mark_ttl_ms)
        return was_there

    def _say_once(self, refusal: bytes) -> None:
        if not self._is_silence_told:
            self._is_silence_told = True
            _log.warning(
                "Redis does not let deletions be told to other replicas, which forget a picture later: %s",
                refusal.decode(errors="replace"),
            )


def _mark(key: str) -> str:
    return f"edgesam:deleted:{{{key}}}"
