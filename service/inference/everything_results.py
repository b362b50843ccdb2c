"""Everything results in Redis, so that the same request is answered again without decoding, by every replica."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import orjson

from service.cache.everything_codec import NamedResult, ResultTooLarge
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions
from service.cache.redis.everything_keys import result_key
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.scheduling.background import BackgroundWork
from service.sam.decoded_image import ImageInfo
from service.sam.everything.options import EverythingOptions
from service.sam.everything.record import RecordedResult
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class SharedResults:
    """What a process shares with other replicas to keep everything results.

    Args:
        cache: Redis tier of the results.
        deletions: Deletions of all replicas.
    """

    cache: RedisCache[NamedResult]
    deletions: Deletions


@dataclass(frozen=True, slots=True)
class ResultKey:
    """What decides a result: the image, the model and the options.

    Args:
        image: Cache keys of the image. They hold its namespace and the model's encoder.
        model_sha256: SHA-256 of the model's manifest, which holds those of the decoder's files.
        options: Options of the request.
    """

    image: ImageKey
    model_sha256: str
    options: EverythingOptions

    @property
    def name(self) -> str:
        """Text that names the result."""
        return f"{self.image.cache_key} {self.model_sha256} {orjson.dumps(self.options).decode()}"

    @property
    def redis_key(self) -> str:
        """Key in Redis, which other results may have as well."""
        return result_key(self.name, self.image.cache_key)


class EverythingResults:
    """Keeps everything results of all models in Redis. Without Redis nothing is kept.

    A result is deleted with its image. It is answered only while its image is embedded.

    Args:
        shared: Parts that use Redis; None without Redis.
        recent_deletions: Images that were deleted in the last minutes, by any replica.
        background: Runs the writes that an answer no longer waits for.
        store_timeout_s: Time that an answer waits for Redis to store its result, in seconds.
        metrics: Metrics of the process, which count look-ups under the tier "everything".
    """

    def __init__(
        self,
        shared: SharedResults | None,
        recent_deletions: RecentDeletions,
        background: BackgroundWork,
        *,
        store_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._shared = shared
        self._recent_deletions = recent_deletions
        self._background = background
        self._store_timeout_s = store_timeout_s
        self._lookups = metrics.cache_lookups_total

    async def find(self, key: ResultKey, image: ImageInfo, context: RequestContext) -> RecordedResult | None:
        """Return the result that Redis has; None if it has none, or does not answer.

        Args:
            key: Key of the result.
            image: What the embedding tells about the image. A result for another size is refused.
            context: Context of the request.
        """
        if self._shared is None:
            return None
        try:
            with context.timings.measure("cache_get"):
                found = await self._shared.cache.get(key.redis_key)
        except CacheUnavailable:
            self._count("error")
            return None
        if found is None or found.name != key.name or found.result.size != image.size:
            self._count("miss")
            return None
        self._count("hit")
        return found.result

    async def keep(self, key: ResultKey, result: RecordedResult, context: RequestContext) -> None:
        """Store a result. Whatever fails, the answer goes on after `store_timeout_s`.

        Args:
            key: Key of the result.
            result: Complete result.
            context: Context of the request. If the image was deleted after its start, nothing is kept.
        """
        if self._shared is None or self._is_deleted(key, context):
            return
        writing = asyncio.create_task(self._write(self._shared, key, result, context), name="store-everything")
        try:
            with context.timings.measure("cache_put"):
                await asyncio.wait({writing}, timeout=self._store_timeout_s)
        finally:
            # Also when the client disconnects: a write that began is checked against deletions afterwards.
            if not writing.done() and not self._background.start(_end_of(writing), context.caller.name):
                writing.cancel()

    async def _write(
        self, shared: SharedResults, key: ResultKey, result: RecordedResult, context: RequestContext
    ) -> None:
        is_wanted = False
        try:
            await shared.cache.put(key.redis_key, NamedResult(key.name, result))
            # A deletion sets its tombstone before it deletes the results. One of the two sees the other.
            tombstone = await shared.deletions.tombstone(key.image.cache_key)
            is_wanted = not tombstone and not self._is_deleted(key, context)
        except ResultTooLarge:
            return
        except CacheUnavailable:
            pass  # the client can ask again, and then it is computed again
        if not is_wanted:
            with suppress(CacheUnavailable):
                await shared.cache.delete(key.redis_key)

    def _is_deleted(self, key: ResultKey, context: RequestContext) -> bool:
        return self._recent_deletions.was_deleted_since(key.image.cache_key, context.began)

    def _count(self, outcome: str) -> None:
        self._lookups.labels("everything", outcome).inc()


async def _end_of(task: asyncio.Task[None]) -> None:
    await asyncio.gather(task, return_exceptions=True)
