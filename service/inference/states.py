"""Where the image state of a picture comes from: this process's memory, else Redis and one `prepare`."""

import asyncio
from concurrent.futures import Executor
from typing import Literal

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.runtime import ImageState, Runtime
from service.inference.singleflight import SingleFlight
from service.metrics import Stages
from service.sam.embedding import ImageEmbedding


class ImageStates:
    """The memory tier of prepared states in front of the shared tier of embeddings.

    Args:
        memory: prepared states.
        shared: embeddings of all replicas; None without Redis.
        runtime: prepares, in `workers`.
    """

    def __init__(
        self,
        memory: MemoryCache[ImageState],
        shared: Cache[ImageEmbedding] | None,
        runtime: Runtime,
        workers: Executor,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._runtime = runtime
        self._workers = workers
        self._loads: SingleFlight[ImageState] = SingleFlight()

    def peek(self, key: str) -> ImageState | None:
        """The state if memory holds it; renews its time to live."""
        return self._memory.peek(key)

    async def find(self, key: str, stages: Stages) -> ImageState:
        """The state, from memory or loaded once for all who ask.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        state = self._memory.peek(key)
        return state if state is not None else await self._loads.run(key, lambda: self._load(key, stages))

    async def look_up(self, key: str, stages: Stages) -> tuple[ImageState, Literal["memory", "redis"]] | None:
        """The state and the tier that had it, after `peek` has missed; one from Redis is prepared and kept.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        with stages.measure("cache_get"):
            state = await self._memory.get(key)  # counts the miss, and sees what has come since the peek
            if state is not None:
                return state, "memory"
            embedding = None if self._shared is None else await self._shared.get(key)
        return None if embedding is None else (await self.prepare(key, embedding, stages), "redis")

    async def prepare(self, key: str, embedding: ImageEmbedding, stages: Stages) -> ImageState:
        """Prepare an embedding and keep the state in memory."""
        loop = asyncio.get_running_loop()
        with stages.measure("prepare"):
            state = await loop.run_in_executor(self._workers, self._runtime.prepare, embedding)
        await self._memory.put(key, state)
        return state

    async def contains(self, key: str) -> Literal["memory", "redis"] | None:
        """The tier that has it; nothing is loaded or renewed.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        if await self._memory.contains(key):
            return "memory"
        if self._shared is not None and await self._shared.contains(key):
            return "redis"
        return None

    async def delete(self, key: str) -> bool:
        """Forget it in both tiers; whether there was anything.

        Raises:
            CacheUnavailable: Redis may still have it.
        """
        was_there = await self._memory.delete(key)
        if self._shared is not None:
            was_there = await self._shared.delete(key) or was_there
        return was_there

    async def _load(self, key: str, stages: Stages) -> ImageState:
        try:
            found = await self.look_up(key, stages)
        except CacheUnavailable as error:
            raise CacheUnavailable(
                f"{error.detail} Nobody knows whether this picture is embedded: retry, "
                "or POST the picture to /embed, which works without the cache.",
                retry_after_s=error.retry_after_s,
            ) from error
        if found is None:
            raise EmbeddingNotFound(
                "No embedding of this picture is cached for the served model. "
                "POST the picture to /embed, then repeat this request."
            )
        return found[0]
