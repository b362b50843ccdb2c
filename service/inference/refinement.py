"""Low-resolution masks of earlier answers, kept for minutes so that a later prompt can refine them by id."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.cache.tiers import TieredCache
from service.errors import CacheUnavailable, MaskNotFound
from service.inference.background import BackgroundWork
from service.inference.forgotten import ForgottenPictures
from service.sam.embedding import masks_below

LowResMask = NDArray[np.float16]  # (256, 256) logits, 128 KiB


class RefinementMasks:
    """Masks by key (`service.sam.embedding.mask_key`), in memory at once and in Redis behind the answer.

    Args:
        memory: this process's tier.
        shared: the tier of all replicas; None without Redis.
        background: runs the writes to `shared`.
        forgotten: pictures that were deleted lately, whose masks go with them: those in memory, here and in Redis.
    """

    def __init__(
        self,
        memory: MemoryCache[LowResMask],
        shared: Cache[LowResMask] | None,
        background: BackgroundWork,
        forgotten: ForgottenPictures,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._tiers: Cache[LowResMask] = TieredCache(memory, shared) if shared is not None else memory
        self._background = background
        self._forgotten = forgotten
        forgotten.watch(self._drop)

    async def find(self, key: str) -> LowResMask:
        """The logits (256, 256).

        Raises:
            MaskNotFound: unknown for this picture, or expired.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        mask_logits = await self._tiers.get(key)
        if mask_logits is None:
            raise MaskNotFound(
                "The mask_id is unknown for this picture or has expired. "
                "Repeat the prompt that made the mask, or send its logits as mask_logits."
            )
        return mask_logits

    async def keep(
        self, picture: str, masks: Sequence[tuple[str, LowResMask]], *, began: float, caller: str = ""
    ) -> None:
        """Keep (key, logits) pairs; when this returns, this process can find them.

        Args:
            picture: its `embedding_key`.
            masks: of it.
            began: when the work on them did; those of a picture that was deleted since are not kept.
            caller: whose share of the work behind answers telling Redis is taken from.
        """
        if self._forgotten.since(picture, began):
            return
        for key, mask_logits in masks:
            await self._memory.put(key, mask_logits)
        if self._shared is not None:
            self._background.start(self._share(self._shared, picture, masks, began), caller)

    async def _share(
        self, shared: Cache[LowResMask], picture: str, masks: Sequence[tuple[str, LowResMask]], began: float
    ) -> None:
        for key, mask_logits in masks:
            if self._forgotten.since(picture, began):
                return
            with suppress(CacheUnavailable):  # the mask can be made again from its prompt
                await shared.put(key, mask_logits)
                if self._forgotten.since(picture, began):
                    await shared.delete(key)

    def _drop(self, picture: str) -> bool:
        dropped = self._memory.drop_below(masks_below(picture))
        if dropped and self._shared is not None:
            self._background.start(self._unshare(self._shared, dropped))
        return bool(dropped)

    async def _unshare(self, shared: Cache[LowResMask], keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(CacheUnavailable):  # it expires within minutes, and nobody finds it without its picture
                await shared.delete(key)
