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

LowResMask = NDArray[np.float16]  # (256, 256) logits, 128 KiB


class RefinementMasks:
    """Masks by key (`service.sam.embedding.mask_key`), in memory at once and in Redis behind the answer.

    Args:
        memory: this process's tier.
        shared: the tier of all replicas; None without Redis.
        background: runs the writes to `shared`.
    """

    def __init__(
        self, memory: MemoryCache[LowResMask], shared: Cache[LowResMask] | None, background: BackgroundWork
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._tiers: Cache[LowResMask] = TieredCache(memory, shared) if shared is not None else memory
        self._background = background

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

    async def keep(self, masks: Sequence[tuple[str, LowResMask]], *, caller: str = "") -> None:
        """Keep (key, logits) pairs; when this returns, this process can find them.

        Args:
            masks: the pairs.
            caller: whose share of the work behind answers telling Redis is taken from.
        """
        for key, mask_logits in masks:
            await self._memory.put(key, mask_logits)
        if self._shared is not None:
            self._background.start(self._share(self._shared, masks), caller)

    async def _share(self, shared: Cache[LowResMask], masks: Sequence[tuple[str, LowResMask]]) -> None:
        for key, mask_logits in masks:
            with suppress(CacheUnavailable):  # the mask can be made again from its prompt
                await shared.put(key, mask_logits)
