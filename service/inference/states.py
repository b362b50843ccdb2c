"""Where the image state of a picture comes from: this process's memory, else Redis and one `prepare`."""

from contextlib import suppress
from time import monotonic
from typing import Literal
from weakref import WeakKeyDictionary

from service.cache.base import Cache
from service.cache.deletions import Deletions
from service.cache.memory import MemoryCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.background import BackgroundWork
from service.inference.forgotten import ForgottenPictures
from service.inference.runtime import ImageState, Runtime
from service.inference.singleflight import SingleFlight
from service.inference.workers import Workers
from service.metrics import Stages
from service.sam.embedding import ImageEmbedding

Tier = Literal["memory", "redis"]

_NOT_FOUND = (
    "No embedding of this picture is cached for the served model. POST the picture to /embed, then repeat this request."
)


class ImageStates:
    """The memory tier of prepared states in front of the shared tier of embeddings.

    What memory serves, Redis must go on having, since the next click may meet another replica: an embedding in use
    is renewed there, and stored again if it was lost. One that was deleted is kept nowhere, also by work that began
    before: `began` is when it did, before it looked for anything.

    Args:
        memory: prepared states.
        shared: embeddings of all replicas; None without Redis.
        deletions: of all replicas; None without Redis.
        forgotten: pictures that were deleted lately, here or elsewhere.
        runtime: prepares, in `workers`.
        background: renews behind the answers.
        renew_every_s: how often a picture in use is renewed in Redis, seconds.
    """

    def __init__(
        self,
        memory: MemoryCache[ImageState],
        shared: Cache[ImageEmbedding] | None,
        *,
        deletions: Deletions | None,
        forgotten: ForgottenPictures,
        runtime: Runtime,
        workers: Workers,
        background: BackgroundWork,
        renew_every_s: float,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._deletions = deletions
        self._forgotten = forgotten
        self._runtime = runtime
        self._workers = workers
        self._background = background
        self._renew_every_s = renew_every_s
        self._renewed_at: WeakKeyDictionary[ImageState, float] = WeakKeyDictionary()
        self._loads: SingleFlight[ImageState] = SingleFlight()
        forgotten.watch(self._drop)

    def held(self) -> list[str]:
        """Keys of the pictures in memory."""
        return self._memory.keys()

    def peek(self, key: str) -> ImageState | None:
        """The state if memory holds it; renews its time to live there."""
        return self._memory.peek(key)

    async def find(self, key: str, stages: Stages, *, caller: str = "") -> ImageState:
        """The state, from memory or loaded once for all who ask.

        Args:
            key: of the picture.
            stages: of the request.
            caller: whose share of the work behind answers a renewal is taken from.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        state = self._memory.peek(key)
        if state is None:
            return await self._loads.run(key, lambda: self._load(key, stages))
        if self._shared is not None and monotonic() > self._renewed_at.get(state, 0.0) + self._renew_every_s:
            self._renewed_at[state] = monotonic()
            self._background.start(self._keep_shared(key, state.embedding), caller)
        return state

    async def embedding(self, key: str, stages: Stages) -> ImageEmbedding:
        """The embedding alone, from memory or Redis; nothing is prepared or kept.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        with stages.measure("cache_get"):
            state = await self._memory.get(key)
            if state is not None:
                return state.embedding
            embedding = None if self._shared is None else await self._shared.get(key)
        if embedding is None:
            raise EmbeddingNotFound(_NOT_FOUND)
        return embedding

    async def look_up(self, key: str, stages: Stages, *, began: float) -> tuple[ImageState, Tier] | None:
        """The state and the tier that had it, after `peek` has missed; one from Redis is prepared and kept.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        with stages.measure("cache_get"):
            state = await self._memory.get(key)  # counts the miss, and sees what has come since the peek
            if state is not None:
                return state, "memory"
            embedding = None if self._shared is None else await self._shared.get(key)
        return None if embedding is None else (await self.prepare(key, embedding, stages, began=began), "redis")

    async def prepare(self, key: str, embedding: ImageEmbedding, stages: Stages, *, began: float) -> ImageState:
        """Prepare an embedding and keep the state in memory."""

        def work() -> ImageState:
            with stages.measure("prepare"):
                return self._runtime.prepare(embedding)

        state = await self._workers.run(stages, work)
        self._renewed_at[state] = monotonic()
        if not self._forgotten.since(key, began):
            await self._memory.put(key, state)
        return state

    async def share(self, key: str, embedding: ImageEmbedding, stages: Stages, *, began: float) -> None:
        """Store a new embedding in Redis, in bounded time; without it other replicas encode for themselves."""
        if self._deletions is not None:
            with suppress(CacheUnavailable), stages.measure("cache_put"):
                if not self._forgotten.since(key, began):
                    await self._deletions.revoke(key)
                    await self._store(key, embedding, began)

    async def ensure_shared(self, key: str, embedding: ImageEmbedding) -> bool:
        """Renew an embedding in Redis, or store it again if Redis has lost it.

        Returns:
            Whether it is still wanted. If not, another replica has deleted it, and it is gone from here as well.
        """
        began = monotonic()
        if self._shared is None or self._deletions is None:
            return True
        with suppress(CacheUnavailable):
            if not await self._shared.renew(key) and await self._memory.contains(key):
                if await self._deletions.is_deleted(key):
                    self._forgotten.add(key)
                else:
                    await self._store(key, embedding, began)
        return not self._forgotten.since(key, began)

    async def contains(self, key: str) -> Tier | None:
        """The tier that has it; what memory has, Redis has too when this returns, if it can be asked.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        state = self._memory.peek(key)
        if state is not None and await self.ensure_shared(key, state.embedding):
            return "memory"
        if self._shared is not None and await self._shared.contains(key):
            return "redis"
        return None

    async def delete(self, key: str) -> bool:
        """Forget it in both tiers, and tell the other replicas; whether there was anything.

        Raises:
            CacheUnavailable: Redis may still have it, and the others do.
        """
        await self._loads.settle(key)  # who waits there is answered first
        was_there = False
        try:
            if self._deletions is not None:
                was_there = await self._deletions.delete(key)
        finally:
            # Now and not before, so that nothing that was read of Redis meanwhile is kept.
            was_there = self._forgotten.add(key) or was_there
        return was_there

    def _drop(self, key: str) -> bool:
        self._loads.detach(key)
        return self._memory.drop(key)

    async def _keep_shared(self, key: str, embedding: ImageEmbedding) -> None:
        await self.ensure_shared(key, embedding)

    async def _store(self, key: str, embedding: ImageEmbedding, began: float) -> None:
        """Put it into Redis, unless it was deleted since; and take it back if it was meanwhile.

        Raises:
            CacheUnavailable: Redis did not take it.
        """
        assert self._shared is not None
        assert self._deletions is not None
        if self._forgotten.since(key, began):
            return
        await self._shared.put(key, embedding)
        if self._forgotten.since(key, began):
            await self._deletions.enforce(key)

    async def _load(self, key: str, stages: Stages) -> ImageState:
        try:
            found = await self.look_up(key, stages, began=monotonic())
        except CacheUnavailable as error:
            raise CacheUnavailable(
                f"{error.detail} Nobody knows whether this picture is embedded: retry, "
                "or POST the picture to /embed, which works without the cache.",
                retry_after_s=error.retry_after_s,
            ) from error
        if found is None:
            raise EmbeddingNotFound(_NOT_FOUND)
        return found[0]
