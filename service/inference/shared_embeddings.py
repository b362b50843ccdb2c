"""Embeddings in Redis: renewed while memory uses them, and stored again if Redis lost them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from weakref import WeakKeyDictionary

from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions, is_older
from service.cache.redis.tier import RedisCache
from service.cache.redis.variants import tombstone_key
from service.errors import CacheUnavailable
from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.scheduling.background import BackgroundWork
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.embedding_bytes import INFO_BYTES, CorruptValue, embedding_info
from service.telemetry.timings import Timings

UNSHARED_RETRY_S = 5.0  # until an embedding that Redis did not take is offered again, when a prompt uses the image


@dataclass(frozen=True, slots=True)
class Upload:
    """An embedding that Redis has to take, or may take again.

    Args:
        began: Start of the upload's work, in seconds of `time.monotonic`.
        tombstone: Tombstone of an earlier deletion, which the upload removes; "" for none, None if Redis was silent.
    """

    began: float
    tombstone: str | None


class SharedEmbeddings:
    """The Redis tier of one model's embeddings, as this process uses it. Without Redis its methods do nothing.

    Redis must keep the embeddings that memory serves, since the next prompt may reach another replica. So an embedding
    in use is renewed in Redis, and stored again if Redis lost it.

    A deleted embedding is stored no more, also not by work that began before the deletion. An embedding that was
    uploaded after its deletion is stored, also while Redis has not taken it yet and still has the tombstone.

    Args:
        tier: Redis tier of all replicas; None without Redis.
        deletions: Deletions of all replicas; None without Redis.
        recent_deletions: Images that were deleted in the last minutes, by any replica.
        runtime: Model of the embeddings.
        background: Runs the renewals after the answers.
        renew_every_s: Seconds between two renewals of an embedding in use.
        is_in_memory: Function that returns whether memory has exactly this state under a key.
    """

    def __init__(
        self,
        tier: RedisCache[ImageEmbedding] | None,
        deletions: Deletions | None,
        *,
        recent_deletions: RecentDeletions,
        runtime: Runtime,
        background: BackgroundWork,
        renew_every_s: float,
        is_in_memory: Callable[[str, ImageState], bool],
    ) -> None:
        self._tier = tier
        self._deletions = deletions
        self._recent_deletions = recent_deletions
        self._runtime = runtime
        self._background = background
        self._renew_every_s = renew_every_s
        self._is_in_memory = is_in_memory
        self._renewed_at: WeakKeyDictionary[ImageState, float] = WeakKeyDictionary()
        self._unshared: WeakKeyDictionary[ImageState, Upload] = WeakKeyDictionary()

    async def get(self, key: str) -> ImageEmbedding | None:
        """Return the embedding that Redis has; None if it has none.

        Raises:
            CacheUnavailable: Redis does not answer.
        """
        embedding = None if self._tier is None else await self._tier.get(key)
        return None if embedding is None or await self._is_deleted_variant(key) else embedding

    async def info(self, key: str) -> ImageInfo | None:
        """Return what answers tell about the image of an embedding; None if Redis has none. It is not renewed.

        Raises:
            CacheUnavailable: Redis does not answer.
        """
        start = b"" if self._tier is None else await self._tier.first_bytes(key, INFO_BYTES)
        if self._tier is None or not start or await self._is_deleted_variant(key):
            return None
        try:
            model = self._runtime
            return embedding_info(start, model.fingerprint, has_high_res=model.manifest.has_high_res)
        except CorruptValue:  # a replica that has the image stores it again only where Redis has no value
            await self._tier.delete(key)
        return None

    async def tombstone(self, key: str) -> str:
        """Return the tombstone of a deletion before now, which an upload that begins now may remove; "" for none.

        Raises:
            CacheUnavailable: Redis does not answer.
        """
        return "" if self._deletions is None else await self._deletions.tombstone(key)

    async def delete(self, key: str) -> bool:
        """Delete an embedding for all replicas, and return whether Redis had it.

        Raises:
            CacheUnavailable: Redis may still have it, and so may other replicas.
        """
        return self._deletions is not None and await self._deletions.delete(key)

    def note_stored(self, state: ImageState) -> None:
        """Record that Redis has the embedding of a new state, or is about to get it."""
        self._renewed_at[state] = monotonic()

    def note_upload(self, state: ImageState, upload: Upload) -> None:
        """Record a state whose embedding Redis has to take, before other requests can find the state in memory.

        They would take the tombstone of an earlier deletion for one of this state.
        """
        if self._tier is not None:
            self._unshared[state] = upload

    async def take_upload(self, key: str, state: ImageState, upload: Upload, timings: Timings) -> None:
        """Store an uploaded embedding. If Redis does not take it, it is offered again when a prompt uses the image."""
        if self._tier is not None:
            with suppress(CacheUnavailable), timings.measure("cache_put"):
                await self._share(key, state, upload)

    def renew_in_use(self, key: str, state: ImageState, caller: str) -> None:
        """Renew an embedding in the background, unless that was done a short time ago.

        Args:
            key: Cache key of the image.
            state: State in memory.
            caller: Name of the API key, whose share of background work this counts towards.
        """
        if self._tier is None:
            return
        renew_every_s = self._renew_every_s
        if self._unshared and state in self._unshared:
            renew_every_s = min(UNSHARED_RETRY_S, renew_every_s)
        if monotonic() > self._renewed_at.get(state, 0.0) + renew_every_s:
            now = monotonic()
            if self._background.start(self._ensure(key, state, now), caller):
                self._renewed_at[state] = now

    async def ensure(self, key: str, state: ImageState, *, began: float | None = None) -> bool:
        """Renew an embedding in Redis, or store it again if Redis lost it or never had it.

        Args:
            key: Cache key of the image.
            state: State in memory, now or when the work began.
            began: Start of the work, in seconds of `time.monotonic`; None for now.

        Returns:
            Whether the embedding is still wanted. If not, another replica deleted it, and memory has dropped it.
        """
        began = monotonic() if began is None else began
        if self._tier is None:
            return True
        with suppress(CacheUnavailable):
            if await self._tier.renew(key):
                self._unshared.pop(state, None)  # another replica stored it
                if await self._is_deleted_variant(key):
                    self._discard(key, state, began)
            elif self._is_in_memory(key, state):
                await self._share(key, state, self._unshared.get(state) or Upload(began, ""))
        return not self._recent_deletions.was_deleted_since(key, began)

    async def check(self, key: str, state: ImageState) -> None:
        """Discard an image that was deleted while this replica received no deletions. Keep one that Redis merely lost.

        Args:
            key: Cache key of the image.
            state: State in memory.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        if self._deletions is None:
            return
        began = monotonic()
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

    async def _is_deleted_variant(self, key: str) -> bool:
        return self._deletions is not None and await self._deletions.remove_deleted_variant(key)

    async def _ensure(self, key: str, state: ImageState, began: float) -> None:
        await self.ensure(key, state, began=began)

    async def _share(self, key: str, state: ImageState, upload: Upload) -> None:
        """Store an embedding in Redis, or discard it if the image was deleted after its upload.

        Raises:
            CacheUnavailable: Redis did not take it.
        """
        assert self._tier is not None
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
        if await self._tier.put_unless_deleted(key, state.embedding, tombstone_key=tombstone_key(key), known=known):
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
        return not self._is_in_memory(key, state) and self._recent_deletions.was_deleted_since(key, began)
