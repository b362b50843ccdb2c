"""Receiving the deletions of other replicas, and asking Redis for those that were missed during an outage."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from service.cache.disk.missed_deletions import MissedDeletions
from service.cache.disk.tier import DiskTier
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions
from service.errors import CacheUnavailable
from service.inference.image_states import ImageStates
from service.sam.embedding import is_any_embedding_key, is_embedding_key, model_of_key

logger = logging.getLogger(__name__)

# Seconds between two keys that are checked after an outage, so that the checks do not slow requests down. 1 GiB of
# memory holds about 100 images with prepared states, or 500 without.
PAUSE_S = 0.01


class DeletionSubscriber:
    """Drops images that other replicas delete, from `start` to `aclose`.

    Args:
        deletions: Deletions of all replicas.
        served: Function that returns the image states of each served model by its fingerprint. Their keys are checked
            after an outage. Keys of other models are ignored.
        recent_deletions: Deletions known to this process, to which the received ones are added.
        dtype: Type of the tokens in the caches. Keys of other types are ignored.
        disk: Disk tier, which has files of all models; None without one.
        missed: Comparison of the files on disk with deletions that were missed; None without a disk tier.
    """

    def __init__(
        self,
        deletions: Deletions,
        *,
        served: Callable[[], Mapping[str, ImageStates]],
        recent_deletions: RecentDeletions,
        dtype: str,
        disk: DiskTier | None = None,
        missed: MissedDeletions | None = None,
    ) -> None:
        self._served = served
        self._recent_deletions = recent_deletions
        self._dtype = dtype
        self._disk = disk
        self._missed = missed
        self._subscription = deletions.subscription(on_deletion=self._receive, on_subscribed=self._check_all)
        self._checks: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Subscribe in the background. A Redis that does not answer delays nothing."""
        self._subscription.start()

    async def aclose(self) -> None:
        """Unsubscribe, and end the checks."""
        await self._subscription.aclose()
        if self._checks is not None:
            self._checks.cancel()
            await asyncio.gather(self._checks, return_exceptions=True)

    def _receive(self, key: str) -> None:
        # The channel also carries keys of other models, and any text that another user publishes. Redis needs no check:
        # the tombstone there refuses a value of this image that is being stored.
        if any(is_embedding_key(key, fingerprint, self._dtype) for fingerprint in self._served()):
            self._recent_deletions.add(key)
        if self._disk is not None and is_any_embedding_key(key):
            self._disk.drop(key)

    def _check_all(self) -> None:
        if self._missed is not None:
            self._missed.subscribed()
        if self._checks is not None:
            self._checks.cancel()  # from an earlier outage: these checks include the keys that were not checked then
        self._checks = asyncio.create_task(self._check_memory(), name="missed deletions")
        self._checks.add_done_callback(_log_error)

    async def _check_memory(self) -> None:
        """Drop the images in memory that another replica deleted meanwhile. Keep those that Redis merely lost."""
        keys = {key for states in self._served().values() for key in states.keys_in_memory()}
        for key in keys:
            # A model that a reload has removed meanwhile took its states along.
            while (states := self._served().get(model_of_key(key)[0])) is not None:
                await asyncio.sleep(PAUSE_S)
                try:
                    await states.check(key)
                    break
                except CacheUnavailable as error:  # the breaker may still be open when the subscription is back
                    await asyncio.sleep(error.retry_after_s or 1.0)


def _log_error(checks: asyncio.Task[None]) -> None:
    if not checks.cancelled() and (error := checks.exception()) is not None:
        logger.error("asking for missed deletions failed", exc_info=error)
