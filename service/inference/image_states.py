"""Where the image state of a picture comes from: this process's memory, else Redis and one `prepare`."""

from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Literal
from weakref import WeakKeyDictionary

from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletions import Deletions, is_older, mark_key
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.backends.runtime import ImageState, Runtime
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.singleflight import SingleFlight
from service.sam.embedding import ImageEmbedding
from service.telemetry.metrics import Timings

Tier = Literal["memory", "redis"]

# How soon a picture that Redis did not take is offered to it again, where it is clicked on, seconds.
UNSHARED_RETRY_S = 5.0

_NOT_FOUND = (
    "No embedding of this picture is cached for the served model. POST the picture to /embed, then repeat this request."
)


@dataclass(frozen=True, slots=True)
class _Upload:
    """What Redis has to take, or may take once more.

    Args:
        began: when the work did, as `time.monotonic` tells it.
        mark: of a deletion before that, which the upload takes away; "" for none, None if Redis could not be asked.
    """

    began: float
    mark: str | None


class ImageStates:
    """The memory tier of prepared states in front of the shared tier of embeddings.

    What memory serves, Redis must go on having, since the next click may meet another replica: an embedding in use
    is renewed there, and stored again if it was lost. One that was deleted is kept nowhere, also by work that began
    before: `began` is when it did, before it looked for anything. One that was uploaded after its deletion is wanted,
    also while Redis has not taken it yet and still has the mark.

    Args:
        memory: prepared states.
        shared: embeddings of all replicas; None without Redis.
        deletions: of all replicas; None without Redis.
        recent_deletions: pictures that were deleted lately, here or elsewhere.
        runtime: prepares, in `workers`.
        background: renews behind the answers.
        renew_every_s: how often a picture in use is renewed in Redis, seconds.
    """

    def __init__(
        self,
        memory: MemoryCache[ImageState],
        shared: RedisCache[ImageEmbedding] | None,
        *,
        deletions: Deletions | None,
        recent_deletions: RecentDeletions,
        runtime: Runtime,
        workers: TimedExecutor,
        background: BackgroundWork,
        renew_every_s: float,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._deletions = deletions
        self._recent_deletions = recent_deletions
        self._runtime = runtime
        self._workers = workers
        self._background = background
        self._renew_every_s = renew_every_s
        self._renewed_at: WeakKeyDictionary[ImageState, float] = WeakKeyDictionary()
        self._unshared: WeakKeyDictionary[ImageState, _Upload] = WeakKeyDictionary()
        self._loads: SingleFlight[ImageState] = SingleFlight()
        recent_deletions.watch(self._drop)

    def held(self) -> list[str]:
        """Keys of the pictures in memory."""
        return self._memory.keys()

    def peek(self, key: str) -> ImageState | None:
        """The state if memory holds it; renews its time to live there."""
        return self._memory.peek(key)

    async def find(self, key: str, timings: Timings, *, caller: str = "") -> ImageState:
        """The state, from memory or loaded once for all who ask.

        Args:
            key: of the picture.
            timings: of the request.
            caller: whose share of the work behind answers a renewal is taken from.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        state = self._memory.peek(key)
        if state is None:
            return await self._loads.run(key, lambda: self._load(key, timings))
        renew_every_s = self._renew_every_s
        if self._unshared and state in self._unshared:
            renew_every_s = min(UNSHARED_RETRY_S, renew_every_s)
        if self._shared is not None and monotonic() > self._renewed_at.get(state, 0.0) + renew_every_s:
            now = monotonic()
            if self._background.start(self._keep_shared(key, state, now), caller):
                self._renewed_at[state] = now
        return state

    async def embedding(self, key: str, timings: Timings) -> ImageEmbedding:
        """The embedding alone, from memory or Redis; nothing is prepared or kept.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        with timings.measure("cache_get"):
            state = await self._memory.get(key)
            if state is not None:
                return state.embedding
            embedding = None if self._shared is None else await self._shared.get(key)
        if embedding is None:
            raise EmbeddingNotFound(_NOT_FOUND)
        return embedding

    async def look_up(self, key: str, timings: Timings, *, began: float) -> tuple[ImageState, Tier] | None:
        """The state and the tier that had it, after `peek` has missed; one from Redis is prepared and kept.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        with timings.measure("cache_get"):
            state = await self._memory.get(key)  # counts the miss, and sees what has come since the peek
            if state is not None:
                return state, "memory"
            embedding = None if self._shared is None else await self._shared.get(key)
        return None if embedding is None else (await self.prepare(key, embedding, timings, began=began), "redis")

    async def mark(self, key: str) -> str:
        """What an upload that begins now may take away when it is added: the mark of the deletion before it.

        "" for none.

        Raises:
            CacheUnavailable: Redis cannot be asked.
        """
        return "" if self._deletions is None else await self._deletions.mark(key)

    async def prepare(self, key: str, embedding: ImageEmbedding, timings: Timings, *, began: float) -> ImageState:
        """Prepare an embedding that Redis has, and keep the state in memory."""
        state = await self._prepare(embedding, timings)
        if not self._recent_deletions.was_deleted_since(key, began):
            await self._memory.put(key, state)
        return state

    async def add(
        self, key: str, embedding: ImageEmbedding, timings: Timings, *, began: float, mark: str | None
    ) -> None:
        """Keep a new embedding: in memory, and in Redis, in bounded time; without that other replicas encode anew.

        Args:
            key: of the picture.
            embedding: of it.
            timings: of the request.
            began: when the work did.
            mark: what `mark` said then, None if it could not. Where Redis has another one by now, nothing is kept.
        """
        state = await self._prepare(embedding, timings)
        if self._recent_deletions.was_deleted_since(key, began):
            return
        upload = _Upload(began, mark)
        if self._shared is not None:
            self._unshared[state] = upload  # before anybody finds it in memory, and takes the mark for its own
        await self._memory.put(key, state)
        if self._shared is not None:
            with suppress(CacheUnavailable), timings.measure("cache_put"):
                await self._share(key, state, upload)

    async def ensure_shared(self, key: str, state: ImageState, *, began: float | None = None) -> bool:
        """Renew an embedding in Redis, or store it again if Redis has lost it or never had it.

        Args:
            key: of the picture.
            state: what memory has, or had when
            began: the work did; None for now.

        Returns:
            Whether it is still wanted. If not, another replica has deleted it, and it is gone from here as well.
        """
        began = monotonic() if began is None else began
        if self._shared is None:
            return True
        with suppress(CacheUnavailable):
            if await self._shared.renew(key):
                self._unshared.pop(state, None)  # another replica had it to share
            elif self._memory.glance(key) is state:
                await self._share(key, state, self._unshared.get(state) or _Upload(began, ""))
        return not self._recent_deletions.was_deleted_since(key, began)

    async def check(self, key: str) -> None:
        """Forget a picture if it was deleted while nobody could tell this replica; what Redis merely lost stays.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused.
        """
        began = monotonic()
        state = self._memory.glance(key)
        if state is None or self._deletions is None:
            return
        mark = await self._deletions.mark(key)
        upload = self._unshared.get(state)
        if upload is None:
            if mark:
                self._forget(key, state, began)
        elif mark and upload.mark is not None and mark != upload.mark:
            self._forget(key, state, upload.began)
        else:
            with suppress(CacheUnavailable):  # a Redis too full for it still tells of the others; a renewal tries again
                await self._share(key, state, upload)

    async def contains(self, key: str) -> Tier | None:
        """The tier that has it; what memory has, Redis has too when this returns, if it can be asked.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        state = self._memory.peek(key)
        if state is not None and await self.ensure_shared(key, state):
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
        was_there = self._recent_deletions.add(key)  # before, for what is on its way to a Redis too full for a mark
        try:
            if self._deletions is not None:
                was_there = await self._deletions.delete(key) or was_there
        finally:
            # And after, so that nothing that was read of Redis meanwhile is kept.
            was_there = self._recent_deletions.add(key) or was_there
        return was_there

    def _drop(self, key: str) -> bool:
        self._loads.detach(key)
        return self._memory.drop(key)

    async def _keep_shared(self, key: str, state: ImageState, began: float) -> None:
        await self.ensure_shared(key, state, began=began)

    async def _prepare(self, embedding: ImageEmbedding, timings: Timings) -> ImageState:
        def work() -> ImageState:
            with timings.measure("prepare"):
                return self._runtime.prepare(embedding)

        state = await self._workers.run(timings, work)
        self._renewed_at[state] = monotonic()
        return state

    async def _share(self, key: str, state: ImageState, upload: _Upload) -> None:
        """Put it into Redis, or forget it if it was deleted after its upload.

        Raises:
            CacheUnavailable: Redis did not take it.
        """
        assert self._shared is not None
        assert self._deletions is not None
        if self._is_gone(key, state, upload.began):
            return
        known = upload.mark
        if known is None:
            known = await self._deletions.mark(key)
            # Nobody could tell then which deletions were before; the clocks of the replicas have to.
            if known and not is_older(known, monotonic() - upload.began):
                self._forget(key, state, upload.began)
                return
        if await self._shared.put_unless(key, state.embedding, marked=mark_key(key), known=known):
            self._unshared.pop(state, None)
        else:
            self._forget(key, state, upload.began)

    def _forget(self, key: str, state: ImageState, began: float) -> None:
        """Of several who find the same mark the first: by the second's time the picture may be uploaded anew."""
        if not self._is_gone(key, state, began):
            self._recent_deletions.add(key)

    def _is_gone(self, key: str, state: ImageState, began: float) -> bool:
        """Memory lets go of what is forgotten: what it still holds was not, however long ago the work on it began."""
        return self._memory.glance(key) is not state and self._recent_deletions.was_deleted_since(key, began)

    async def _load(self, key: str, timings: Timings) -> ImageState:
        try:
            found = await self.look_up(key, timings, began=monotonic())
        except CacheUnavailable as error:
            raise CacheUnavailable(
                f"{error.detail} Nobody knows whether this picture is embedded: retry, "
                "or POST the picture to /embed, which works without the cache.",
                retry_after_s=error.retry_after_s,
            ) from error
        if found is None:
            raise EmbeddingNotFound(_NOT_FOUND)
        return found[0]
