"""Embeddings of one model on disk: looked up behind Redis, and written with each upload."""

import asyncio
from contextlib import suppress
from time import monotonic, time
from typing import Final
from weakref import WeakKeyDictionary

from service.cache.base import Codec
from service.cache.disk.known_files import MARK_EVERY_S
from service.cache.disk.missed_deletions import MissedDeletions
from service.cache.disk.tier import DiskTier
from service.cache.recent_deletions import RecentDeletions
from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.scheduling.background import BackgroundWork
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.embedding_bytes import INFO_BYTES, CorruptValue, embedding_info

# Longest wait of an answer for the disk, seconds. The write goes on behind the answer.
_WRITE_WAIT_S: Final = 0.5


class DiskEmbeddings:
    """The disk tier of one model's embeddings. A disk that fails costs look-ups, and never a request.

    Args:
        tier: Disk tier of all models.
        missed: Deletions that happened while this replica was off.
        codec: Conversion between embeddings and bytes.
        recent_deletions: Images that were deleted in the last minutes, by any replica.
        runtime: Model of the embeddings.
        background: Runs the writes and marks that no answer waits for.
    """

    def __init__(
        self,
        tier: DiskTier,
        missed: MissedDeletions,
        codec: Codec[ImageEmbedding],
        *,
        recent_deletions: RecentDeletions,
        runtime: Runtime,
        background: BackgroundWork,
    ) -> None:
        self._tier = tier
        self._missed = missed
        self._codec = codec
        self._recent_deletions = recent_deletions
        self._runtime = runtime
        self._background = background
        self._writes: set[asyncio.Task[None]] = set()
        self._marked_at: WeakKeyDictionary[ImageState, float] = WeakKeyDictionary()

    async def get(self, key: str, tombstone: str | None) -> tuple[ImageEmbedding, float] | None:
        """Return an embedding, and when the work that made it began, in seconds of `time.monotonic`. None for none.

        Args:
            key: Cache key of the image.
            tombstone: Tombstone of the image in Redis; "" for none, None if Redis was silent.

        Raises:
            CacheUnavailable: There is one, and Redis does not answer whether it was deleted meanwhile.
        """
        found = await self._tier.read(key, self._codec.decode)
        if found is None or await self._missed.is_deleted(key, found[1], tombstone):
            return None
        return found[0], monotonic() - (time() - found[1] / 1000.0)

    async def info(self, key: str, tombstone: str | None) -> ImageInfo | None:
        """Return what answers tell about the image of an embedding; None if there is none.

        Args:
            key: Cache key of the image.
            tombstone: Tombstone of the image in Redis; "" for none, None if Redis was silent.

        Raises:
            CacheUnavailable: There is one, and Redis does not answer whether it was deleted meanwhile.
        """
        found = await self._tier.read_start(key, INFO_BYTES)
        if found is None or await self._missed.is_deleted(key, found[1], tombstone):
            return None
        model = self._runtime
        with suppress(CorruptValue):  # a reader of the whole file removes it
            return embedding_info(found[0], model.fingerprint, has_high_res=model.manifest.has_high_res)
        return None

    async def put(self, key: str, embedding: ImageEmbedding, began: float) -> None:
        """Store an embedding, unless its image is deleted meanwhile. The wait for a slow disk is short.

        A process that is killed after this has returned leaves a complete file, unless the disk was slow.

        Args:
            key: Cache key of the image.
            embedding: Embedding of the image.
            began: Start of the work that made it, in seconds of `time.monotonic`.
        """
        write = asyncio.create_task(self._write(key, embedding, began), name="write of the disk tier")
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.wait({write}, timeout=_WRITE_WAIT_S)

    def keep_copy(self, key: str, embedding: ImageEmbedding, began: float, caller: str) -> None:
        """Store an embedding from Redis in the background, if the disk has none.

        Args:
            key: Cache key of the image.
            embedding: Embedding of the image.
            began: Start of the work that read it, in seconds of `time.monotonic`.
            caller: Name of the API key, whose share of background work this counts towards.
        """
        if not self._tier.folder.has(key):
            self._background.start(self._write(key, embedding, began, replaces=False), caller)

    def mark_used(self, key: str, state: ImageState, caller: str) -> None:
        """Count a use of an image that memory has, in the background and at most once a minute.

        Args:
            key: Cache key of the image.
            state: State in memory.
            caller: Name of the API key, whose share of background work this counts towards.
        """
        now = monotonic()
        if now > self._marked_at.get(state, 0.0) + MARK_EVERY_S:
            self._marked_at[state] = now
            self._background.start(self._tier.mark_used(key), caller)

    async def _write(self, key: str, embedding: ImageEmbedding, began: float, *, replaces: bool = True) -> None:
        if self._recent_deletions.was_deleted_since(key, began):
            return
        began_at_ms = int((time() - (monotonic() - began)) * 1000.0)
        if not await self._tier.write(key, lambda: self._codec.encode(embedding), began_at_ms, replaces=replaces):
            return
        if self._recent_deletions.was_deleted_since(key, began):
            self._tier.drop(key)
        else:
            self._missed.note_written(key)
