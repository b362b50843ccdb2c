"""Images that were deleted lately, so that work in progress does not store them again.

The deletion of an image is the deletion of all its variants (`service.sam.embedding.includes`).
"""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from service.sam.embedding import plain_key

# Each is a key of some hundred bytes: 20 MB in all.
MAX_KEYS = 65_536


class RecentDeletions:
    """The times of deletions known to this process. Work that began before a deletion must not store the image.

    Old deletions are dropped. Work that began before a dropped deletion counts as too old for all images: it answers,
    but stores nothing.

    Args:
        longest_work_s: Time for which a deletion is kept, seconds.
        max_keys: Most deletions that are kept.
        clock: Monotonic clock, seconds; the same as that of `began`.
    """

    def __init__(
        self, longest_work_s: float, *, max_keys: int = MAX_KEYS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._longest_work_s = longest_work_s
        self._max_keys = max_keys
        self._clock = clock
        self._at: OrderedDict[str, float] = OrderedDict()
        self._all_before = float("-inf")
        self._droppers: list[Callable[[str], bool]] = []

    def watch(self, drop: Callable[[str], bool]) -> None:
        """Call a function for each deletion from now on.

        Args:
            drop: Function that drops the values of the image with a key, and returns whether there were any.
        """
        self._droppers.append(drop)

    def unwatch(self, drop: Callable[[str], bool]) -> None:
        """Call a function no more that `watch` was given."""
        self._droppers.remove(drop)

    def add(self, key: str) -> bool:
        """Drop an image from this process and return whether the process had any value of it.

        Args:
            key: Key of the image, see `service.sam.embedding.embedding_key`.
        """
        now = self._clock()
        self._at[key] = now
        self._at.move_to_end(key)
        while len(self._at) > self._max_keys or next(iter(self._at.values())) < now - self._longest_work_s:
            _, self._all_before = self._at.popitem(last=False)
        had_any = False
        for drop in self._droppers:
            had_any = drop(key) or had_any
        return had_any

    def was_deleted_since(self, key: str, began: float) -> bool:
        """Return whether an image was deleted after work on it began.

        Args:
            key: Key of the image.
            began: Start of the work, before its first look-up, in seconds of `clock`.
        """
        deleted_at = self._at.get(key, self._all_before)
        return began <= max(deleted_at, self._at.get(plain_key(key), self._all_before))
