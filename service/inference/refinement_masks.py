"""Low-resolution masks of earlier answers, kept for minutes so that a later prompt can refine them by id."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.tiers import TieredCache
from service.errors import CacheUnavailable, MaskNotFound
from service.inference.scheduling.background import BackgroundWork

# Whose share of the work behind answers deletions take: one that no API key has.
_NO_CALLER = "\0"

LowResMask = NDArray[np.float16]  # (256, 256) logits, 128 KiB


class RefinementMasks:
    """Masks by key (`service.sam.embedding.mask_key`), in memory at once and in Redis behind the answer.

    Args:
        memory: this process's tier, grouped by `service.sam.embedding.image_of_mask`.
        shared: the tier of all replicas; None without Redis.
        background: runs the writes to `shared`.
        recent_deletions: images that were deleted lately; their masks are deleted with them.
    """

    def __init__(
        self,
        memory: MemoryCache[LowResMask],
        shared: Cache[LowResMask] | None,
        background: BackgroundWork,
        recent_deletions: RecentDeletions,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._tiers: Cache[LowResMask] = TieredCache(memory, shared) if shared is not None else memory
        self._background = background
        self._recent_deletions = recent_deletions
        recent_deletions.watch(self._drop)

    async def find(self, mask_key: str, *, key: str, began: float) -> LowResMask:
        """The logits (256, 256).

        Args:
            mask_key: of the mask.
            key: of its picture.
            began: when the work did that asks; what is found of a picture that was deleted since stays in no memory.

        Raises:
            MaskNotFound: unknown for this picture, or expired.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        mask_logits = await self._tiers.get(mask_key)
        if mask_logits is None:
            raise MaskNotFound(
                "The mask_id is unknown for this picture or has expired. "
                "Repeat the prompt that made the mask, or send its logits as mask_logits."
            )
        if self._recent_deletions.was_deleted_since(key, began):
            self._memory.drop(mask_key)  # where the look-up has just copied it
        return mask_logits

    async def keep(self, key: str, masks: Sequence[tuple[str, LowResMask]], *, began: float, caller: str = "") -> None:
        """Keep masks; when this returns, this process can find them.

        Args:
            key: of the picture.
            masks: of it, each with its `mask_key`.
            began: when the work on them did; those of a picture that was deleted since are not kept.
            caller: whose share of the work behind answers telling Redis is taken from.
        """
        if self._recent_deletions.was_deleted_since(key, began):
            return
        for mask_key, mask_logits in masks:
            await self._memory.put(mask_key, mask_logits)
        if self._shared is not None:
            self._background.start(self._share(self._shared, key, masks, began), caller)

    async def _share(
        self, shared: Cache[LowResMask], key: str, masks: Sequence[tuple[str, LowResMask]], began: float
    ) -> None:
        for mask_key, mask_logits in masks:
            if self._recent_deletions.was_deleted_since(key, began):
                return
            with suppress(CacheUnavailable):  # the mask can be made again from its prompt
                await shared.put(mask_key, mask_logits)
                if self._recent_deletions.was_deleted_since(key, began):
                    await shared.delete(mask_key)

    def _drop(self, key: str) -> bool:
        dropped = self._memory.drop_group(key)
        if dropped and self._shared is not None:
            self._background.start(self._unshare(self._shared, dropped), _NO_CALLER)
        return bool(dropped)

    async def _unshare(self, shared: Cache[LowResMask], mask_keys: Sequence[str]) -> None:
        for mask_key in mask_keys:
            with suppress(CacheUnavailable):  # it expires within minutes, and nobody finds it without its picture
                await shared.delete(mask_key)
