"""The tier inside the process: values as they are, least recently used out first, bounded in bytes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from service.telemetry.metrics import Metrics


class Measured(Protocol):
    """Anything that knows its size in memory, such as an array."""

    @property
    def nbytes(self) -> int:
        """Size, bytes."""
        ...


M = TypeVar("M", bound=Measured)


class MemoryCache(Generic[M]):
    """A cache tier of at most `max_bytes`, for one event loop.

    Args:
        max_bytes: bound on the sum of the values' `nbytes`; a value larger than that is not kept, 0 keeps nothing.
        ttl_s: seconds a value lives after its last use.
        metrics: counts look-ups and evictions and shows the bytes held, under the name of the tier.
        tier: name of the tier.
        group: what a key's value belongs to, for `drop_group`; None where nothing is dropped so.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        max_bytes: int,
        ttl_s: float,
        metrics: Metrics,
        tier: str = "memory",
        *,
        group: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier = tier
        self.ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._held_bytes = 0
        # Oldest use first. Every use renews the same time to live, so this is the order of expiry as well, and what
        # has expired is always found at the front.
        self._entries: OrderedDict[str, tuple[M, float]] = OrderedDict()
        self._group = group
        self._groups: dict[str, set[str]] = {}  # keys of `_entries`; nobody is in it with none
        self._hits = metrics.cache_lookups_total.labels(tier, "hit")
        self._misses = metrics.cache_lookups_total.labels(tier, "miss")
        self._evictions = metrics.cache_evictions_total.labels(tier)
        metrics.watch_cache(tier, lambda: self._held_bytes)

    @property
    def held_bytes(self) -> int:
        """Sum of the values' sizes, bytes."""
        return self._held_bytes

    def peek(self, key: str) -> M | None:
        """`get` without a wait, for the fast path: a hit is used and counted like any other.

        A miss is not counted, because whoever misses here asks `get` next.
        """
        self._expire()
        entry = self._entries.get(key)
        if entry is None:
            return None

        value, _ = entry
        self._entries[key] = (value, self._clock() + self.ttl_s)
        self._entries.move_to_end(key)
        self._hits.inc()
        return value

    def glance(self, key: str) -> M | None:
        """The value if it is there; neither a use nor counted."""
        self._expire()
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    async def get(self, key: str) -> M | None:
        """The value, whose time to live starts anew, or None."""
        value = self.peek(key)
        if value is None:
            self._misses.inc()
        return value

    async def put(self, key: str, value: M) -> None:
        """Keep a value before anything else runs; the least recently used ones make room for it."""
        self._expire()
        self._drop(key)
        if value.nbytes > self._max_bytes or self._max_bytes == 0:
            return

        while self._held_bytes + value.nbytes > self._max_bytes:
            self._evict_oldest()
        self._entries[key] = (value, self._clock() + self.ttl_s)
        self._held_bytes += value.nbytes
        if self._group is not None:
            self._groups.setdefault(self._group(key), set()).add(key)

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one. Not an eviction."""
        return self.drop(key)

    def drop(self, key: str) -> bool:
        """`delete` without a wait."""
        self._expire()
        return self._drop(key)

    def drop_group(self, group: str) -> list[str]:
        """Forget every value that belongs to it; their keys."""
        self._expire()
        dropped = list(self._groups.get(group, ()))
        for key in dropped:
            self._drop(key)
        return dropped

    def keys(self) -> list[str]:
        """Of all values that are there now."""
        self._expire()
        return list(self._entries)

    async def contains(self, key: str) -> bool:
        """Whether there is a value; its time to live goes on."""
        self._expire()
        return key in self._entries

    async def renew(self, key: str) -> bool:
        """Start a value's time to live anew; False if there is none."""
        self._expire()
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._entries[key] = (entry[0], self._clock() + self.ttl_s)
        self._entries.move_to_end(key)
        return True

    async def aclose(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._groups.clear()
        self._held_bytes = 0

    def _expire(self) -> None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values()))[1] <= now:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        self._drop(next(iter(self._entries)))
        self._evictions.inc()

    def _drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._held_bytes -= entry[0].nbytes
        if self._group is not None:
            group = self._group(key)
            self._groups[group].remove(key)
            if not self._groups[group]:
                del self._groups[group]
        return True
