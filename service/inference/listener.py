"""Forgets what other replicas delete, at once where it is heard, and after an outage by asking."""

import asyncio
from contextlib import suppress

from service.cache.deletions import Deletions
from service.errors import CacheUnavailable
from service.inference.background import BackgroundWork
from service.inference.forgotten import ForgottenPictures
from service.inference.states import ImageStates
from service.sam.embedding import is_embedding_key

# Between two questions after an outage. A gibibyte of memory holds a hundred pictures, five hundred without states.
PAUSE_S = 0.01


class DeletionListener:
    """Listens as long as it is open.

    Args:
        deletions: of all replicas.
        states: whose pictures are asked for after an outage.
        forgotten: where what was heard is told.
        background: where Redis is asked to forget what was stored while it was deleted.
        fingerprint, dtype: of the keys that concern this replica.
    """

    def __init__(
        self,
        deletions: Deletions,
        *,
        states: ImageStates,
        forgotten: ForgottenPictures,
        background: BackgroundWork,
        fingerprint: str,
        dtype: str,
    ) -> None:
        self._deletions = deletions
        self._states = states
        self._forgotten = forgotten
        self._background = background
        self._fingerprint = fingerprint
        self._dtype = dtype
        self._subscription = deletions.listen(heard=self._hear, began=self._begin_to_ask)
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; a Redis that cannot be listened to keeps nobody waiting."""
        self._subscription.start()

    async def aclose(self) -> None:
        """Stop."""
        await self._subscription.aclose()
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    def _hear(self, key: str) -> None:
        # Other models' keys, and whatever else somebody says on the channel, are passed over.
        if is_embedding_key(key, self._fingerprint, self._dtype) and self._forgotten.add(key):
            # It was here, so it may have been put into Redis just behind the deletion.
            self._background.start(self._enforce(key))

    async def _enforce(self, key: str) -> None:
        with suppress(CacheUnavailable):
            await self._deletions.enforce(key)

    def _begin_to_ask(self) -> None:
        if self._asking is not None:
            self._asking.cancel()  # the outage before: what it had not asked yet is asked now
        self._asking = asyncio.create_task(self._ask(), name="missed deletions")

    async def _ask(self) -> None:
        """Whether anything that memory holds was deleted meanwhile. What Redis merely lost stays."""
        for key in self._states.held():
            while True:
                await asyncio.sleep(PAUSE_S)
                try:
                    if await self._deletions.is_deleted(key):
                        self._forgotten.add(key)
                    break
                except CacheUnavailable as error:  # the breaker may still be open when the channel is back
                    await asyncio.sleep(error.retry_after_s or 1.0)
