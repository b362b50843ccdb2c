"""Image states: from this process's memory, or prepared from an embedding in Redis or on disk."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.disk_embeddings import DiskEmbeddings
from service.inference.image_key import is_of_model
from service.inference.prefetching import Prefetching
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.singleflight import SingleFlight
from service.inference.shared_embeddings import SharedEmbeddings, Upload
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding, deletion_group, includes
from service.telemetry.timings import Timings

Tier = Literal["memory", "redis", "disk"]


@dataclass(frozen=True, slots=True)
class _Found:
    """An embedding that another tier than memory has.

    Args:
        embedding: Embedding.
        tier: Tier that has it.
        began: Start of the work that made one of the disk, in seconds of `time.monotonic`.
        tombstone: Tombstone beside one of the disk, which is newer; "" for none, None if Redis was silent.
    """

    embedding: ImageEmbedding
    tier: Tier
    began: float = 0.0
    tombstone: str | None = None


class ImageStates:
    """The image states of one model: the memory tier, which all models share, in front of embeddings in other tiers.

    The order of look-ups is memory, Redis, disk. An embedding that only the disk has is stored in Redis again, so that
    the other replicas find it. The disk gets a copy of each embedding from Redis, too.

    A deleted embedding is kept nowhere, also not by work that began before the deletion.

    Keys are cache keys of images (`ImageKey.cache_key`).

    Args:
        memory: Memory tier of this process, of all models, grouped by `service.sam.embedding.deletion_group`.
        shared: Redis tier of all replicas; None without Redis.
        deletions: Deletions of all replicas; None without Redis.
        recent_deletions: Images that were deleted in the last minutes, by any replica.
        runtime: Model that prepares image states.
        executor: Threads in which image states are prepared.
        background: Runs the renewals after the answers.
        renew_every_s: Seconds between two renewals of an embedding in use.
        disk: Disk tier of this model's embeddings; None without one.
    """

    def __init__(
        self,
        memory: MemoryCache[ImageState],
        shared: RedisCache[ImageEmbedding] | None,
        *,
        deletions: Deletions | None,
        recent_deletions: RecentDeletions,
        runtime: Runtime,
        executor: TimedExecutor,
        background: BackgroundWork,
        renew_every_s: float,
        disk: DiskEmbeddings | None = None,
    ) -> None:
        self._memory = memory
        self._disk = disk
        self._shared = SharedEmbeddings(
            shared,
            deletions,
            recent_deletions=recent_deletions,
            runtime=runtime,
            background=background,
            renew_every_s=renew_every_s,
            is_in_memory=lambda key, state: self._memory.glance(key) is state,
        )
        self._recent_deletions = recent_deletions
        self._runtime = runtime
        self._executor = executor
        self._loads: SingleFlight[ImageState] = SingleFlight()
        self._prefetching = Prefetching(background, self._load_once)
        recent_deletions.watch(self._drop)

    def keys_in_memory(self) -> list[str]:
        """Return the keys of the images in memory, of all models."""
        return self._memory.keys()

    def retire(self) -> None:
        """Drop this model's states from memory, and use memory no more: a later model may have the same keys."""
        self._memory = self._memory.detached(partial(is_of_model, self._runtime.fingerprint))
        self._recent_deletions.unwatch(self._drop)

    def peek(self, key: str) -> ImageState | None:
        """Return the state if memory has it, and renew its time to live there."""
        return self._memory.peek(key)

    async def find(self, key: str, context: RequestContext) -> ImageState:
        """Return the state, from memory, or loaded from Redis once for all requests that need it.

        Args:
            key: Cache key of the image.
            context: Context of the request. A renewal in Redis counts towards the caller's share of background work.

        Raises:
            EmbeddingNotFound: No tier has it.
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        state = self._memory.peek(key)
        if state is None:
            return await self._load_once(key, context)
        self._shared.renew_in_use(key, state, context.caller.name)
        if self._disk is not None:
            self._disk.mark_used(key, state, context.caller.name)
        return state

    def prefetch(self, key: str, context: RequestContext) -> bool:
        """Load a state into memory in the background, and return whether memory has it or is getting it.

        Args:
            key: Cache key of the image.
            context: Context of the request. The load counts towards the caller's share of background work.
        """
        if not self._memory.is_enabled or self._runtime.decoder == "none":
            return False
        is_there = self._memory.glance(key) is not None or self._loads.is_running(key)
        return is_there or self._prefetching.start(key, context)

    async def embedding(self, key: str, timings: Timings) -> ImageEmbedding:
        """Return the embedding alone, from memory or Redis. No state is prepared, and the embedding is not kept.

        Args:
            key: Cache key of the image.
            timings: Stage timings of the current request.

        Raises:
            EmbeddingNotFound: No tier has it.
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        with timings.measure("cache_get"):
            state = await self._memory.get(key)
            if state is not None:
                return state.embedding
            found = await self._find_embedding(key)
        if found is None:
            raise EmbeddingNotFound.of_model(self._runtime.manifest.name)
        return found.embedding

    async def look_up(self, key: str, context: RequestContext) -> tuple[ImageState, Tier] | None:
        """Return the state and the tier that had it, after `peek` missed. A state from Redis is prepared and kept.

        Raises:
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        with context.timings.measure("cache_get"):
            state = await self._memory.get(key)  # counts the miss, and finds a state that was stored since `peek`
            if state is not None:
                return state, "memory"
            found = await self._find_embedding(key)
        if found is None:
            return None
        if found.tier == "redis":
            return await self.prepare(key, found.embedding, context), "redis"
        state = await self._prepare(found.embedding, context.timings)
        if not self._recent_deletions.was_deleted_since(key, context.began):
            await self._keep(key, state, Upload(found.began, found.tombstone), context.timings)
        return state, "disk"

    async def tombstone(self, key: str) -> str:
        """Return the tombstone of a deletion before now, which an upload that begins now may remove; "" for none.

        Raises:
            CacheUnavailable: Redis does not answer.
        """
        return await self._shared.tombstone(key)

    async def prepare(self, key: str, embedding: ImageEmbedding, context: RequestContext) -> ImageState:
        """Prepare an embedding that Redis has, and keep the state in memory."""
        state = await self._prepare(embedding, context.timings)
        if not self._recent_deletions.was_deleted_since(key, context.began):
            await self._memory.put(key, state)
            if self._disk is not None:
                self._disk.keep_copy(key, embedding, context.began, context.caller.name)
        return state

    async def add(self, key: str, embedding: ImageEmbedding, context: RequestContext, *, tombstone: str | None) -> None:
        """Keep a new embedding in all tiers. If Redis does not take it, other replicas encode anew.

        Args:
            key: Cache key of the image.
            embedding: Embedding of the image.
            context: Context of the upload.
            tombstone: Answer of `tombstone` at the start of the upload; None if Redis did not answer. If Redis has
                another tombstone by now, nothing is kept.
        """
        state = await self._prepare(embedding, context.timings)
        if self._recent_deletions.was_deleted_since(key, context.began):
            return
        upload = Upload(context.began, tombstone)
        keep = self._keep(key, state, upload, context.timings)
        if self._disk is None:
            await keep
        else:
            await asyncio.gather(keep, self._disk.put(key, embedding, context.began))

    async def ensure_shared(self, key: str, state: ImageState) -> bool:
        """Renew an embedding in Redis, or store it again if Redis lost it or never had it.

        Args:
            key: Cache key of the image.
            state: State in memory.

        Returns:
            Whether the embedding is still wanted. If not, another replica deleted it, and memory has dropped it.
        """
        return await self._shared.ensure(key, state)

    async def check(self, key: str) -> None:
        """Drop an image that was deleted while this replica received no deletions. Keep one that Redis merely lost.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        state = self._memory.glance(key)
        if state is not None:
            await self._shared.check(key, state)

    async def contains(self, key: str) -> tuple[Tier, ImageInfo] | None:
        """Return the tier that has the image, and its size. If it is memory, Redis has the image too, if Redis answers.

        Raises:
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        state = self._memory.peek(key)
        if state is not None and await self.ensure_shared(key, state):
            return "memory", state.embedding.info
        try:
            info = await self._shared.info(key)
            if info is not None or self._disk is None:
                return None if info is None else ("redis", info)
            tombstone = await self._shared.tombstone(key)
        except CacheUnavailable:
            info = await self._info_on_disk(key)
            if info is None:
                raise
        else:
            info = await self._disk.info(key, tombstone)
        return None if info is None else ("disk", info)

    async def delete(self, key: str) -> bool:
        """Delete an image in both tiers, and publish the deletion; return whether any tier had it.

        Raises:
            CacheUnavailable: Redis may still have the image, and so may other replicas.
        """
        await self._loads.settle(partial(includes, key))  # requests that wait for this load are answered first
        # Before, so that a value on its way to Redis is dropped: a full Redis may not take the tombstone.
        was_there = self._recent_deletions.add(key)
        try:
            was_there = await self._shared.delete(key) or was_there
        finally:
            # And afterwards, so that a state that was read from Redis meanwhile is not kept.
            was_there = self._recent_deletions.add(key) or was_there
        return was_there

    def _drop(self, key: str) -> bool:
        self._loads.detach(partial(includes, key))
        return bool(self._memory.drop_group(deletion_group(key), partial(includes, key)))

    async def _find_embedding(self, key: str) -> "_Found | None":
        """Return what Redis or the disk has, after memory missed.

        Raises:
            CacheUnavailable: Redis does not answer, and the disk does not have it or does not know of its deletion.
        """
        tombstone: str | None = None
        try:
            embedding = await self._shared.get(key)
            if embedding is not None:
                return _Found(embedding, "redis")
            if self._disk is None:
                return None
            # Before the disk: a deletion after this sets another one, and Redis refuses the embedding then.
            tombstone = await self._shared.tombstone(key)
        except CacheUnavailable:
            on_disk = None
            if self._disk is not None:
                with suppress(CacheUnavailable):
                    on_disk = await self._disk.get(key, None)
            if on_disk is None:
                raise
        else:
            on_disk = await self._disk.get(key, tombstone)
        return None if on_disk is None else _Found(on_disk[0], "disk", on_disk[1], tombstone)

    async def _info_on_disk(self, key: str) -> ImageInfo | None:
        """Return what the disk knows of an image; None if it has none, or its deletion is unknown."""
        with suppress(CacheUnavailable):
            return None if self._disk is None else await self._disk.info(key, None)
        return None

    async def _keep(self, key: str, state: ImageState, upload: Upload, timings: Timings) -> None:
        """Keep a state in memory, and its embedding in Redis."""
        self._shared.note_upload(state, upload)
        await self._memory.put(key, state)
        await self._shared.take_upload(key, state, upload, timings)

    async def _prepare(self, embedding: ImageEmbedding, timings: Timings) -> ImageState:
        def prepare() -> ImageState:
            with timings.measure("prepare"):
                return self._runtime.prepare(embedding)

        state = await self._executor.run(timings, prepare)
        self._shared.note_stored(state)
        return state

    async def _load_once(self, key: str, context: RequestContext) -> ImageState:
        return await self._loads.run(key, lambda: self._load(key, context.restarted()), context.timings)

    async def _load(self, key: str, context: RequestContext) -> ImageState:
        try:
            found = await self.look_up(key, context)
        except CacheUnavailable as error:
            raise CacheUnavailable(
                f"{error.detail} It is unknown whether this image is embedded: retry, "
                "or POST the image to /embed, which works without the cache.",
                retry_after_s=error.retry_after_s,
            ) from error
        if found is None:
            raise EmbeddingNotFound.of_model(self._runtime.manifest.name)
        return found[0]
