"""Pictures that were deleted lately: what holds anything of one lets go of it, and what is under way keeps nothing."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

# Each is a key of some hundred bytes: 20 MB of them.
MOST = 65_536


class RecentDeletions:
    """When pictures were forgotten, for work that began before: it must not put them back.

    Work that began before something was forgotten that is no longer remembered counts as too old for all pictures: it
    answers, and keeps nothing.

    Args:
        longest_work_s: a picture is remembered for so long.
        most: pictures remembered.
        clock: seconds that never go back, as `began` is told.
    """

    def __init__(self, longest_work_s: float, *, most: int = MOST, clock: Callable[[], float] = monotonic) -> None:
        self._longest_work_s = longest_work_s
        self._most = most
        self._clock = clock
        self._at: OrderedDict[str, float] = OrderedDict()
        self._all_before = float("-inf")
        self._droppers: list[Callable[[str], bool]] = []

    def watch(self, drop: Callable[[str], bool]) -> None:
        """From now on call `drop` with the key of each forgotten picture; it tells whether it had anything of it."""
        self._droppers.append(drop)

    def add(self, key: str) -> bool:
        """Forget a picture in this process; whether anything of it was there."""
        now = self._clock()
        self._at[key] = now
        self._at.move_to_end(key)
        while len(self._at) > self._most or next(iter(self._at.values())) < now - self._longest_work_s:
            _, self._all_before = self._at.popitem(last=False)
        had_any = False
        for drop in self._droppers:
            had_any = drop(key) or had_any
        return had_any

    def was_deleted_since(self, key: str, began: float) -> bool:
        """Whether the picture was forgotten after work began.

        Args:
            key: of the picture.
            began: of the work, as `time.monotonic` tells it; before it looked for anything.
        """
        return began <= self._at.get(key, self._all_before)
