"""Records of deletions in Redis for replicas with a disk tier, which may be off when an image is deleted.

A tombstone lives a little longer than the memory of a replica (`service.cache.redis.deletions`). A file on a replica's
own disk lives longer: so each deletion is recorded for a month, as long as any replica has a disk tier. A record is of
an image in a namespace, or of a variant, of all models. Its value is the time of the deletion by the clock of the
replica that ran it. A file from before is deleted. One from after it is not, whatever tombstones there are.
"""

from collections.abc import Sequence
from time import time
from typing import Final

from redis.exceptions import ResponseError

from service.cache.disk.names import ImageFiles
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable

# Time for which deletions are recorded, and for which a replica with a disk tier may be off.
RECORD_S: Final = 31 * 86400.0
# Present while any replica has a disk tier, or had one within `RECORD_S`.
ANNOUNCED_KEY: Final = "edgesam:disk-tiers"
# Clocks of two replicas differ by less. A file from this time after a deletion counts as deleted, too.
CLOCK_MARGIN_MS: Final = 60_000

_MAX_DIGITS: Final = 20
_RECORD_MS: Final = int(RECORD_S * 1000.0)


class DeletionRecords:
    """Writes and reads the records of deletions.

    Args:
        client: Redis client, shared with the cache tiers.
        breaker: Circuit breaker of this Redis.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker) -> None:
        self._client = client
        self._breaker = breaker

    async def announce(self) -> None:
        """Let all replicas record deletions from now on: this one has a disk tier.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        await self._client.call(self._breaker, "SET", ANNOUNCED_KEY, 1, "PX", _RECORD_MS)

    async def record(self, key: str) -> None:
        """Record the deletion of an image or variant, of all models, if any replica has a disk tier.

        A Redis that refuses the record, because it is full or a right is missing, costs the record alone.

        Args:
            key: Cache key of the image, of any model, or of a variant of it.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        now_ms = int(time() * 1000.0)
        try:
            if await self._client.call(self._breaker, "EXISTS", ANNOUNCED_KEY):
                record = _record_key(ImageFiles.deleted_by(key))
                await self._client.call(self._breaker, "SET", record, now_ms, "PX", _RECORD_MS)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise

    async def deleted_until_ms(self, files: Sequence[ImageFiles]) -> list[int]:
        """Return until when work on each image or variant is deleted, in milliseconds since 1970; 0 for none.

        Args:
            files: Images or variants, as the names of files tell them.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        if not files:
            return []
        keys = [_record_key(each) for image in files for each in (image.with_all_variants, image)]
        found = await self._client.call_together(self._breaker, [("GET", key) for key in keys])
        return [max(map(_until_ms, found[index : index + 2])) for index in range(0, len(found), 2)]


def _record_key(files: ImageFiles) -> str:
    return f"edgesam:deleted-files:{{{files.image}}}{files.variant or ''}"


def _until_ms(record: object) -> int:
    """Return the time of a record with the margin; 0 for no record, and for text of another user."""
    is_time = isinstance(record, bytes) and record.isdigit() and len(record) < _MAX_DIGITS
    return int(record) + CLOCK_MARGIN_MS if is_time and isinstance(record, bytes) else 0
