"""Several tiers as one cache, the fastest first."""

from contextlib import AsyncExitStack, suppress
from typing import Generic, TypeVar

from service.cache.base import Cache
from service.errors import CacheUnavailable

V = TypeVar("V")


class TieredCache(Generic[V]):
    """Asks its tiers in order. One that cannot be asked is passed over, and only makes a difference if none has it.

    Args:
        tiers: fastest first; closed together with this cache.
    """

    def __init__(self, *tiers: Cache[V]) -> None:
        self.tier = "tiers"
        self._tiers = tiers

    async def find(self, key: str) -> tuple[V, str] | None:
        """`get`, together with the name of the tier that had the value. A hit is copied into the tiers before.

        Raises:
            CacheUnavailable: no tier has it, and at least one of them could not be asked.
        """
        unavailable: CacheUnavailable | None = None
        missed: list[Cache[V]] = []
        for tier in self._tiers:
            try:
                value = await tier.get(key)
            except CacheUnavailable as error:
                unavailable = error
                continue
            if value is not None:
                await _copy(key, value, missed)
                return value, tier.tier
            missed.append(tier)
        if unavailable is not None:
            raise unavailable
        return None

    async def get(self, key: str) -> V | None:
        """The value of the first tier that has it, or None if every tier knows that it has none.

        Raises:
            CacheUnavailable: no tier has it, and at least one of them could not be asked.
        """
        found = await self.find(key)
        return None if found is None else found[0]

    async def put(self, key: str, value: V) -> None:
        """Keep a value in every tier, in order: a memory tier has it before anything else runs.

        Raises:
            CacheUnavailable: a tier did not take it; the others have it.
        """
        unavailable: CacheUnavailable | None = None
        for tier in self._tiers:
            try:
                await tier.put(key, value)
            except CacheUnavailable as error:
                unavailable = error
        if unavailable is not None:
            raise unavailable

    async def delete(self, key: str) -> bool:
        """Forget a value in every tier; whether one had it.

        Raises:
            CacheUnavailable: a tier may still have it.
        """
        unavailable: CacheUnavailable | None = None
        was_there = False
        for tier in self._tiers:
            try:
                was_there = await tier.delete(key) or was_there
            except CacheUnavailable as error:
                unavailable = error
        if unavailable is not None:
            raise unavailable
        return was_there

    async def contains(self, key: str) -> bool:
        """Whether a tier has a value.

        Raises:
            CacheUnavailable: none has it, and at least one of them could not be asked.
        """
        unavailable: CacheUnavailable | None = None
        for tier in self._tiers:
            try:
                if await tier.contains(key):
                    return True
            except CacheUnavailable as error:
                unavailable = error
        if unavailable is not None:
            raise unavailable
        return False

    async def renew(self, key: str) -> bool:
        """Start a value's time to live anew in every tier; whether one has it.

        Raises:
            CacheUnavailable: a tier that could not be asked may let it expire.
        """
        unavailable: CacheUnavailable | None = None
        is_there = False
        for tier in self._tiers:
            try:
                is_there = await tier.renew(key) or is_there
            except CacheUnavailable as error:
                unavailable = error
        if unavailable is not None:
            raise unavailable
        return is_there

    async def aclose(self) -> None:
        """Close the tiers, the last one first, every one of them even if another fails."""
        async with AsyncExitStack() as stack:
            for tier in self._tiers:
                stack.push_async_callback(tier.aclose)


async def _copy(key: str, value: V, tiers: list[Cache[V]]) -> None:
    for tier in tiers:
        with suppress(CacheUnavailable):  # this caller has the value; the tier gets it another time
            await tier.put(key, value)
