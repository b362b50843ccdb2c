"""Loads of image states ahead of prompts, in the background and within bounds."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from service.errors import CacheUnavailable, DeadlineExceeded, EmbeddingNotFound
from service.inference.context import RequestContext
from service.inference.scheduling.background import BackgroundWork

MAX_PREFETCHES = 4  # at once, of one model: prompts need the same connections to Redis and the same threads


class Prefetching:
    """Loads image states ahead of prompts, at most `MAX_PREFETCHES` at once.

    Args:
        background: Runs the loads. Each counts towards its caller's share.
        load: Function that loads the state of a cache key into memory, and that prompts can join.
    """

    def __init__(self, background: BackgroundWork, load: Callable[[str, RequestContext], Awaitable[object]]) -> None:
        self._background = background
        self._load = load
        self._running: set[str] = set()

    def start(self, key: str, context: RequestContext) -> bool:
        """Start the load of a key, and return whether it was started, now or before. Its errors are not raised.

        Args:
            key: Cache key of the image.
            context: Context of the request.
        """
        if key in self._running:  # its task may not have reached `load` yet
            return True
        if len(self._running) >= MAX_PREFETCHES or not self._background.start(
            self._run(key, context), context.caller.name
        ):
            return False
        self._running.add(key)
        return True

    async def _run(self, key: str, context: RequestContext) -> None:
        try:
            # A prompt meets the same errors when it needs the state.
            with suppress(EmbeddingNotFound, CacheUnavailable, DeadlineExceeded):
                async with context.deadline.bound():
                    await self._load(key, context)
        finally:
            self._running.discard(key)
