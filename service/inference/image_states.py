"""Image states: from this process's memory, or prepared from an embedding in Redis."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Literal
from weakref import WeakKeyDictionary

from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions, is_older
from service.cache.redis.tier import RedisCache
from service.cache.redis.variants import tombstone_key
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.image_key import is_of_model
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.singleflight import SingleFlight
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding, deletion_group, includes
from service.sam.embedding_bytes import INFO_BYTES, CorruptValue, embedding_info
from service.telemetry.timings import Timings

Tier = Literal["memory", "redis"]

UNSHARED_RETRY_S = 5.0  # until an embedding that Redis did not take is offered again, when a prompt uses the image


@dataclass(frozen=True, slots=True)
class _Upload:
    """An embedding that Redis has to take, or may take again.

    Args:
        began: Start of the upload's work, in seconds of `time.monotonic`.
        tombstone: Tombstone of an earlier deletion, which the upload removes; "" for none, None if Redis was silent.
    """

    began: float
    tombstone: str | None


class ImageStates:
    """The image states of one model: the memory tier, which all models share, in front of the Redis tier of embeddings.

    Redis must keep the embeddings that memory serves, since the next prompt may reach another replica. So an embedding
    in use is renewed in Redis, and stored again if Redis lost it.

    A deleted embedding is kept nowhere, also not by work that began before the deletion. An embedding that was uploaded
    after its deletion is kept, also while Redis has not taken it yet and still has the tombstone.

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
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._deletions = deletions
        self._recent_deletions = recent_deletions
        self._runtime = runtime
        self._executor = executor
        self._background = background
        self._renew_every_s = renew_every_s
        self._renewed_at: WeakKeyDictionary[ImageState, float] = WeakKeyDictionary()
        self._unshared: WeakKeyDictionary[ImageState, _Upload] = WeakKeyDictionary()
        self._loads: SingleFlight[ImageState] = SingleFlight()
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
            return await self._loads.run(key, lambda: self._load(key, context.restarted()), context.timings)
        renew_every_s = self._renew_every_s
        if self._unshared and state in self._unshared:
            renew_every_s = min(UNSHARED_RETRY_S, renew_every_s)
        if self._shared is not None and monotonic() > self._renewed_at.get(state, 0.0) + renew_every_s:
            now = monotonic()
            if self._background.start(self._keep_shared(key, state, now), context.caller.name):
                self._renewed_at[state] = now
        return state

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
            embedding = await self._shared_embedding(key)
        if embedding is None:
            raise EmbeddingNotFound.of_model(self._runtime.manifest.name)
        return embedding

    async def look_up(self, key: str, context: RequestContext) -> tuple[ImageState, Tier] | None:
        """Return the state and the tier that had it, after `peek` missed. A state from Redis is prepared and kept.

        Raises:
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        with context.timings.measure("cache_get"):
            state = await self._memory.get(key)  # counts the miss, and finds a state that was stored since `peek`
            if state is not None:
                return state, "memory"
            embedding = await self._shared_embedding(key)
        return None if embedding is None else (await self.prepare(key, embedding, context), "redis")

    async def tombstone(self, key: str) -> str:
        """Return the tombstone of a deletion before now, which an upload that begins now may remove; "" for none.

        Raises:
            CacheUnavailable: Redis does not answer.
        """
        return "" if self._deletions is None else await self._deletions.tombstone(key)

    async def prepare(self, key: str, embedding: ImageEmbedding, context: RequestContext) -> ImageState:
        """Prepare an embedding that Redis has, and keep the state in memory."""
        state = await self._prepare(embedding, context.timings)
        if not self._recent_deletions.was_deleted_since(key, context.began):
            await self._memory.put(key, state)
        return state

    async def add(self, key: str, embedding: ImageEmbedding, context: RequestContext, *, tombstone: str | None) -> None:
        """Keep a new embedding in memory and in Redis. If Redis does not take it, other replicas encode anew.

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
        upload = _Upload(context.began, tombstone)
        if self._shared is not None:
            # Before other requests can find the state in memory: they would take the tombstone for one of this state.
            self._unshared[state] = upload
        await self._memory.put(key, state)
        if self._shared is not None:
            with suppress(CacheUnavailable), context.timings.measure("cache_put"):
                await self._share(key, state, upload)

    async def ensure_shared(self, key: str, state: ImageState, *, began: float | None = None) -> bool:
        """Renew an embedding in Redis, or store it again if Redis lost it or never had it.

        Args:
            key: Cache key of the image.
            state: State in memory, now or when the work began.
            began: Start of the work, in seconds of `time.monotonic`; None for now.

        Returns:
            Whether the embedding is still wanted. If not, another replica deleted it, and memory has dropped it.
        """
        began = monotonic() if began is None else began
        if self._shared is None:
            return True
        with suppress(CacheUnavailable):
            if await self._shared.renew(key):
                self._unshared.pop(state, None)  # another replica stored it
                if await self._is_deleted_variant(key):
                    self._discard(key, state, began)
            elif self._memory.glance(key) is state:
                await self._share(key, state, self._unshared.get(state) or _Upload(began, ""))
        return not self._recent_deletions.was_deleted_since(key, began)

    async def check(self, key: str) -> None:
        """Drop an image that was deleted while this replica received no deletions. Keep one that Redis merely lost.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        began = monotonic()
        state = self._memory.glance(key)
        if state is None or self._deletions is None:
            return
        tombstone = await self._deletions.tombstone(key)
        upload = self._unshared.get(state)
        if upload is None:
            if tombstone:
                self._discard(key, state, began)
        elif tombstone and upload.tombstone is not None and tombstone != upload.tombstone:
            self._discard(key, state, upload.began)
        else:
            # A full Redis refuses this value and still answers for the other keys. The next renewal tries again.
            with suppress(CacheUnavailable):
                await self._share(key, state, upload)

    async def contains(self, key: str) -> tuple[Tier, ImageInfo] | None:
        """Return the tier that has the image, and its size. If it is memory, Redis has the image too, if Redis answers.

        Raises:
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        state = self._memory.peek(key)
        if state is not None and await self.ensure_shared(key, state):
            return "memory", state.embedding.info
        start = b"" if self._shared is None else await self._shared.first_bytes(key, INFO_BYTES)
        if self._shared is None or not start or await self._is_deleted_variant(key):
            return None
        try:
            model = self._runtime
            return "redis", embedding_info(start, model.fingerprint, has_high_res=model.manifest.has_high_res)
        except CorruptValue:  # a replica that has the image stores it again only where Redis has no value
            await self._shared.delete(key)
        return None

    async def delete(self, key: str) -> bool:
        """Delete an image in both tiers, and publish the deletion; return whether any tier had it.

        Raises:
            CacheUnavailable: Redis may still have the image, and so may other replicas.
        """
        await self._loads.settle(partial(includes, key))  # requests that wait for this load are answered first
        # Before, so that a value on its way to Redis is dropped: a full Redis may not take the tombstone.
        was_there = self._recent_deletions.add(key)
        try:
            if self._deletions is not None:
                was_there = await self._deletions.delete(key) or was_there
        finally:
            # And afterwards, so that a state that was read from Redis meanwhile is not kept.
            was_there = self._recent_deletions.add(key) or was_there
        return was_there

    def _drop(self, key: str) -> bool:
        self._loads.detach(partial(includes, key))
        return bool(self._memory.drop_group(deletion_group(key), partial(includes, key)))

    async def _shared_embedding(self, key: str) -> ImageEmbedding | None:
        """Return the embedding that Redis has; None if it has none."""
        embedding = None if self._shared is None else await self._shared.get(key)
        return None if embedding is None or await self._is_deleted_variant(key) else embedding

    async def _is_deleted_variant(self, key: str) -> bool:
        return self._deletions is not None and await self._deletions.remove_deleted_variant(key)

    async def _keep_shared(self, key: str, state: ImageState, began: float) -> None:
        await self.ensure_shared(key, state, began=began)

    async def _prepare(self, embedding: ImageEmbedding, timings: Timings) -> ImageState:
        def prepare() -> ImageState:
            with timings.measure("prepare"):
                return self._runtime.prepare(embedding)

        state = await self._executor.run(timings, prepare)
        self._renewed_at[state] = monotonic()
        return state

    async def _share(self, key: str, state: ImageState, upload: _Upload) -> None:
        """Store an embedding in Redis, or discard it if the image was deleted after its upload.

        Raises:
            CacheUnavailable: Redis did not take it.
        """
        assert self._shared is not None
        assert self._deletions is not None
        if self._is_discarded(key, state, upload.began):
            return
        known = upload.tombstone
        if known is None:
            known = await self._deletions.tombstone(key)
            # Redis did not answer when the upload began. So only the clocks of the replicas show whether this tombstone
            # is older than the upload.
            if known and not is_older(known, monotonic() - upload.began):
                self._discard(key, state, upload.began)
                return
        if await self._shared.put_unless_deleted(key, state.embedding, tombstone_key=tombstone_key(key), known=known):
            self._unshared.pop(state, None)
        else:
            self._discard(key, state, upload.began)

    def _discard(self, key: str, state: ImageState, began: float) -> None:
        """Record a deletion that was found by its tombstone.

        Of several tasks that find the same tombstone the first records it. Later the image may be uploaded anew.
        """
        if not self._is_discarded(key, state, began):
            self._recent_deletions.add(key)

    def _is_discarded(self, key: str, state: ImageState, began: float) -> bool:
        """Return whether the state was deleted. A state that memory still holds was not, whenever its work began."""
        return self._memory.glance(key) is not state and self._recent_deletions.was_deleted_since(key, began)

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
