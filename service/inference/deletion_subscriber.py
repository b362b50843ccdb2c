"""Forgets what other replicas delete, at once where it is heard, and after an outage by asking."""

import asyncio
import logging

from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions
from service.errors import CacheUnavailable
from service.inference.image_states import ImageStates
from service.sam.embedding import is_embedding_key

logger = logging.getLogger(__name__)

# Between two questions after an outage. A gibibyte of memory holds a hundred pictures, five hundred without states.
PAUSE_S = 0.01


class DeletionSubscriber:
    """Listens as long as it is open.

    Args:
        deletions: of all replicas.
        states: whose pictures are asked for after an outage.
        recent_deletions: where what was heard is told.
        fingerprint, dtype: of the keys that concern this replica.
    """

    def __init__(
        self,
        deletions: Deletions,
        *,
        states: ImageStates,
        recent_deletions: RecentDeletions,
        fingerprint: str,
        dtype: str,
    ) -> None:
        self._states = states
        self._recent_deletions = recent_deletions
        self._fingerprint = fingerprint
        self._dtype = dtype
        self._subscription = deletions.subscription(heard=self._hear, began=self._begin_to_ask)
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; a Redis that cannot be listened to keeps nobody waiting."""
        self._subscription.start()

    async def aclose(self) -> None:
        """Stop."""
        await self._subscription.aclose()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _hear(self, key: str) -> None:
        # Other models' keys, and whatever else somebody says on the channel, are passed over. Redis need not be asked:
        # whatever of this is on its way there finds the mark.
        if is_embedding_key(key, self._fingerprint, self._dtype):
            self._recent_deletions.add(key)

    def _begin_to_ask(self) -> None:
        if self._asking is not None:
            self._asking.cancel()  # the outage before: what it had not asked yet is asked now
        self._asking = asyncio.create_task(self._ask(), name="missed deletions")
        self._asking.add_done_callback(_tell)

    async def _ask(self) -> None:
        """Whether anything that memory holds was deleted meanwhile. What Redis merely lost stays."""
        for key in self._states.held():
            while True:
                await asyncio.sleep(PAUSE_S)
                try:
                    await self._states.check(key)
                    break
                except CacheUnavailable as error:  # the breaker may still be open when the channel is back
                    await asyncio.sleep(error.retry_after_s or 1.0)


def _tell(asking: asyncio.Task[None]) -> None:
    if not asking.cancelled() and (error := asking.exception()) is not None:
        logger.error("asking for missed deletions failed", exc_info=error)
