"""Masks of earlier answers, kept for minutes so that a later prompt can refine them by their id."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable, MaskNotFound
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey, is_of_model
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.gathering import gather_or_cancel
from service.sam.embedding import deletion_group, image_of_mask, includes
from service.sam.mask_prompts import EncodedMask
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
        mask: Binary mask that is the mask prompt, not decoded yet; None for a prompt without one.
    """

    prompt: Prompt
    mask_id: str | None = None
    mask: EncodedMask | None = None


# Masks that one request reads from Redis at the same time. By default a process has eight connections.
_MAX_FETCHES = 4


class RefinementMasks:
    """Keeps masks in the memory of this process and in Redis, so that every replica can refine them.

    Args:
        memory: Memory tier of this process, grouped by `service.sam.embedding.deletion_group`.
        shared: Redis tier of all replicas; None without Redis.
        background: Runs the writes to `shared` that an answer no longer waits for.
        recent_deletions: Images that were deleted in the last minutes. Their masks are deleted with them.
        store_timeout_s: Time that an answer waits for Redis to store its masks, in seconds.
    """

    def __init__(
        self,
        memory: MemoryCache[LowResMask],
        shared: RedisCache[LowResMask] | None,
        background: BackgroundWork,
        recent_deletions: RecentDeletions,
        *,
        store_timeout_s: float,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._background = background
        self._recent_deletions = recent_deletions
        self._store_timeout_s = store_timeout_s
        recent_deletions.watch(self._drop)

    def retire(self, fingerprint: str) -> None:
        """Drop the masks of a removed model from memory, and neither read nor keep one from now on.

        Args:
            fingerprint: Fingerprint of the model.
        """
        self._memory = self._memory.detached(partial(is_of_model, fingerprint))
        self._recent_deletions.unwatch(self._drop)

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

    @contextmanager
    def of_answer(self, key: ImageKey, context: RequestContext) -> Iterator["AnswerMasks"]:
        """Return a context that collects the masks of one answer. An error in it cancels their writes to Redis.

        Args:
            key: Cache keys of the image.
            context: Context of the request. If the image was deleted after its start, nothing is kept.
        """
        masks = AnswerMasks(key, context, self._shared, self._recent_deletions)
        try:
            yield masks
        except BaseException:
            masks.cancel_writes()
            raise

    async def keep(self, masks: "AnswerMasks") -> None:
        """Keep the masks of an answer. When this returns, this process can find them, and every replica by Redis.

        A Redis that fails, or takes longer than `store_timeout_s`, does not hold up the answer. Then the write goes on
        in the background, and until it ends only this replica finds the masks.
        """
        if masks.is_of_deleted_image():
            masks.cancel_writes()
            return
        for mask_id, mask in masks.collected:
            await self._memory.put(masks.key.mask_key(mask_id), mask)
        if not masks.writes:
            return
        with masks.context.timings.measure("cache_put"):
            _, late = await asyncio.wait(masks.writes, timeout=self._store_timeout_s)
        if late and not self._background.start(_end_of(late), masks.context.caller.name):
            masks.cancel_writes()

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

    def _drop(self, cache_key: str) -> bool:
        """Drop the masks of a deleted image; return whether there were any."""
        dropped = self._memory.drop_group(
            deletion_group(cache_key), lambda mask_key: includes(cache_key, image_of_mask(mask_key))
        )
        if dropped and self._shared is not None:
            self._background.start(self._delete(self._shared, dropped), _DELETIONS)
        return bool(dropped)

    async def _delete(self, shared: RedisCache[LowResMask], mask_keys: Sequence[str]) -> None:
        for mask_key in mask_keys:
            with suppress(CacheUnavailable):  # it expires within minutes, and is not found without its image
                await shared.delete(mask_key)


class AnswerMasks:
    """The masks of one answer. Their writes to Redis begin while the masks are enlarged and rendered.

    Args:
        key: Cache keys of the image.
        context: Context of the request.
        shared: Redis tier of all replicas; None without Redis.
        recent_deletions: Images that were deleted in the last minutes.
    """

    def __init__(
        self,
        key: ImageKey,
        context: RequestContext,
        shared: RedisCache[LowResMask] | None,
        recent_deletions: RecentDeletions,
    ) -> None:
        self.key = key
        self.context = context
        self.collected: list[tuple[str, LowResMask]] = []
        """Id and logits of every mask."""
        self.writes: list[asyncio.Task[None]] = []
        self._shared = shared
        self._recent_deletions = recent_deletions
        self._loop = asyncio.get_running_loop()
        self._is_cancelled = False

    def add(self, masks: Sequence[tuple[str, LowResMask]]) -> None:
        """Collect masks, and begin to store them in Redis. Blocking; any thread may call it.

        Args:
            masks: Id and logits of each mask.
        """
        self.collected.extend(masks)
        if self._shared is None or not masks:
            return
        with suppress(CacheUnavailable, RuntimeError):  # the breaker is open; the event loop is closed
            values = [(self.key.mask_key(mask_id), self._shared.encode(mask)) for mask_id, mask in masks]
            self._loop.call_soon_threadsafe(self._begin_write, self._shared, values)

    def is_of_deleted_image(self) -> bool:
        """Return whether the image was deleted after the request began."""
        return self._recent_deletions.was_deleted_since(self.key.cache_key, self.context.began)

    def cancel_writes(self) -> None:
        """Cancel the writes that have not ended, and begin no more."""
        self._is_cancelled = True
        for write in self.writes:
            write.cancel()

    def _begin_write(self, shared: RedisCache[LowResMask], values: Sequence[tuple[str, bytes]]) -> None:
        if not self._is_cancelled and not self.is_of_deleted_image():
            self.writes.append(asyncio.create_task(self._write(shared, values), name="store-masks"))

    async def _write(self, shared: RedisCache[LowResMask], values: Sequence[tuple[str, bytes]]) -> None:
        with suppress(CacheUnavailable):  # the client can make the masks again from their prompts
            await shared.put_encoded(values)
            if self.is_of_deleted_image():
                for mask_key, _ in values:
                    await shared.delete(mask_key)


async def _end_of(writes: Iterable[asyncio.Task[None]]) -> None:
    await asyncio.gather(*writes, return_exceptions=True)
