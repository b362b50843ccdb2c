"""The cache tier in the memory of the process, bounded in bytes. It evicts the least recently used value first."""

import copy
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from service.telemetry.metrics import Metrics


class Measured(Protocol):
    """A value that states its size in memory, such as an array."""

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        ...


M = TypeVar("M", bound=Measured)


class MemoryCache(Generic[M]):
    """A cache tier of at most `max_bytes`, for one event loop.

    Args:
        max_bytes: Bound on the sum of the values' `nbytes`. A larger value is not stored; 0 stores nothing.
        ttl_s: Time to live of a value after its last use, seconds.
        metrics: Metrics that count look-ups and evictions and show the stored bytes, under the name of the tier.
        tier: Name of the tier.
        group: Function from a key to its group, for `drop_group`; None without groups.
        clock: Monotonic clock, seconds.
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
        # The oldest use comes first. Every use renews the same time to live, so this is also the order of expiry:
        # expired values are always at the front.
        self._entries: OrderedDict[str, tuple[M, float]] = OrderedDict()
        self._group = group
        self._groups: dict[str, set[str]] = {}  # keys of `_entries` by group; no group is empty
        self._hits = metrics.cache_lookups_total.labels(tier, "hit")
        self._misses = metrics.cache_lookups_total.labels(tier, "miss")
        self._evictions = metrics.cache_evictions_total.labels(tier)
        metrics.watch_cache(tier, lambda: self._held_bytes)

    @property
    def held_bytes(self) -> int:
        """Sum of the sizes of all values, bytes."""
        return self._held_bytes

    @property
    def is_enabled(self) -> bool:
        """Whether values are stored at all."""
        return self._max_bytes > 0

    def peek(self, key: str) -> M | None:
        """Return what `get` returns, without a wait, for the fast path. A hit counts as a use and as a look-up.

        A miss is not counted, because the caller asks `get` next.
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
        """Return the value, or None. This is no use of the value and is not counted."""
        self._expire()
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    async def get(self, key: str) -> M | None:
        """Return the value and restart its time to live; None if there is none."""
        value = self.peek(key)
        if value is None:
            self._misses.inc()
        return value

    async def put(self, key: str, value: M) -> None:
        """Store a value without a wait, and evict the least recently used ones if there is no space."""
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
        """Delete a value and return whether there was one. This is no eviction."""
        return self.drop(key)

    def drop(self, key: str) -> bool:
        """Do what `delete` does, without a wait."""
        self._expire()
        return self._drop(key)

    def drop_group(self, group: str, is_dropped: Callable[[str], bool] = lambda _: True) -> list[str]:
        """Delete the values of a group and return their keys.

        Args:
            group: Group of the values.
            is_dropped: Function that returns whether the value with a key is deleted; by default all are.
        """
        self._expire()
        dropped = [key for key in self._groups.get(group, ()) if is_dropped(key)]
        for key in dropped:
            self._drop(key)
        return dropped

    def keys(self) -> list[str]:
        """Return the keys of all values."""
        self._expire()
        return list(self._entries)

    async def contains(self, key: str) -> bool:
        """Return whether there is a value. Its time to live goes on."""
        self._expire()
        return key in self._entries

    async def renew(self, key: str) -> bool:
        """Restart the time to live of a value; False if there is none."""
        self._expire()
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._entries[key] = (entry[0], self._clock() + self.ttl_s)
        self._entries.move_to_end(key)
        return True

    def detached(self, is_dropped: Callable[[str], bool]) -> "MemoryCache[M]":
        """Drop some values, and return a cache without values that takes the place of this one for their owner.

        It stores nothing, and counts its look-ups as this one does.

        Args:
            is_dropped: Function that returns whether the value with a key is dropped here.
        """
        for key in [key for key in self._entries if is_dropped(key)]:
            self._drop(key)
        other = copy.copy(self)
        other._max_bytes = other._held_bytes = 0  # noqa: SLF001 - of this class
        other._entries, other._groups = OrderedDict(), {}  # noqa: SLF001 - as above
        return other

    async def aclose(self) -> None:
        """Delete all values."""
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
