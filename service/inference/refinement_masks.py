"""Masks of earlier answers, kept for minutes so that a later prompt can refine them by their id."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.errors import CacheUnavailable, MaskNotFound
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.gathering import gather_or_cancel
from service.sam.embedding import deletion_group, image_of_mask, includes
from service.sam.prompts import Prompt

# Deletions use the background capacity of a caller of their own. No API key has this name.
_DELETIONS: Final = "\0"

LowResMask = NDArray[np.float16]  # (256, 256) logits, 128 KiB


@dataclass(frozen=True, slots=True)
class RefinablePrompt:
    """A prompt of a request, and the earlier mask that it refines.

    Args:
        prompt: Points, box and mask logits of the prompt.
        mask_id: Id of the mask to refine; None for a prompt without one, or with the logits themselves.
    """

    prompt: Prompt
    mask_id: str | None = None


# Masks that one request reads from Redis at the same time. By default a process has eight connections.
_MAX_FETCHES = 4


class RefinementMasks:
    """Keeps masks in memory at once, and writes them to Redis after the answer.

    Args:
        memory: Memory tier of this process, grouped by `service.sam.embedding.deletion_group`.
        shared: Redis tier of all replicas; None without Redis.
        background: Runs the writes to `shared`.
        recent_deletions: Images that were deleted in the last minutes. Their masks are deleted with them.
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
        self._background = background
        self._recent_deletions = recent_deletions
        recent_deletions.watch(self._drop)

    async def find(self, key: ImageKey, mask_ids: Sequence[str], context: RequestContext) -> dict[str, LowResMask]:
        """Return masks by their ids. Those that memory does not have are read from Redis at the same time.

        Args:
            key: Cache keys of the image.
            mask_ids: Ids of masks of the image; repeated ids are looked up once.
            context: Context of the request. If the image was deleted after its start, memory keeps none of the masks.

        Raises:
            MaskNotFound: A mask is unknown for this image, or has expired.
            CacheUnavailable: Memory does not have a mask, and Redis does not answer.
        """
        found: dict[str, LowResMask] = {}
        missing: list[str] = []
        for mask_id in dict.fromkeys(mask_ids):
            mask = await self._memory.get(key.mask_key(mask_id))
            if mask is None:
                missing.append(mask_id)
            else:
                found[mask_id] = mask
        fetches = [self._fetch(key, mask_id, context) for mask_id in missing]
        fetched = await gather_or_cancel(fetches, at_once=_MAX_FETCHES)
        return found | dict(zip(missing, fetched, strict=True))

    async def keep(self, key: ImageKey, masks: Sequence[tuple[str, LowResMask]], context: RequestContext) -> None:
        """Keep masks. When this returns, this process can find them.

        Args:
            key: Cache keys of the image.
            masks: Id and logits of each mask.
            context: Context of the request. If the image was deleted after its start, nothing is kept.
        """
        if self._recent_deletions.was_deleted_since(key.cache_key, context.began):
            return
        for mask_id, mask in masks:
            await self._memory.put(key.mask_key(mask_id), mask)
        if self._shared is not None:
            self._background.start(self._share(self._shared, key, masks, context.began), context.caller.name)

    async def _fetch(self, key: ImageKey, mask_id: str, context: RequestContext) -> LowResMask:
        mask_key = key.mask_key(mask_id)
        mask = None if self._shared is None else await self._shared.get(mask_key)
        if mask is None:
            raise MaskNotFound(
                "The mask_id is unknown for this image or has expired. "
                "Repeat the prompt that made the mask, or send its logits as mask_logits."
            )
        if not self._recent_deletions.was_deleted_since(key.cache_key, context.began):
            await self._memory.put(mask_key, mask)
        return mask

    async def _share(
        self, shared: Cache[LowResMask], key: ImageKey, masks: Sequence[tuple[str, LowResMask]], began: float
    ) -> None:
        for mask_id, mask in masks:
            if self._recent_deletions.was_deleted_since(key.cache_key, began):
                return
            with suppress(CacheUnavailable):  # the client can make the mask again from its prompt
                await shared.put(key.mask_key(mask_id), mask)
                if self._recent_deletions.was_deleted_since(key.cache_key, began):
                    await shared.delete(key.mask_key(mask_id))

    def _drop(self, cache_key: str) -> bool:
        """Drop the masks of a deleted image; return whether there were any."""
        dropped = self._memory.drop_group(
            deletion_group(cache_key), lambda mask_key: includes(cache_key, image_of_mask(mask_key))
        )
        if dropped and self._shared is not None:
            self._background.start(self._delete(self._shared, dropped), _DELETIONS)
        return bool(dropped)

    async def _delete(self, shared: Cache[LowResMask], mask_keys: Sequence[str]) -> None:
        for mask_key in mask_keys:
            with suppress(CacheUnavailable):  # it expires within minutes, and is not found without its image
                await shared.delete(mask_key)
