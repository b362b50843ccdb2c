"""Pictures that were deleted lately: what holds anything of one lets go of it, and what is under way keeps nothing."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

# Each is a key of some hundred bytes.
MOST = 4096


class ForgottenPictures:
    """When pictures were forgotten, for work that began before: it must not put them back.

    Args:
        most: pictures remembered. When there are more, all work counts as too old that began before the oldest of them
            was forgotten: it answers, and keeps nothing.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._at: OrderedDict[str, float] = OrderedDict()
        self._all_before = float("-inf")
        self._droppers: list[Callable[[str], bool]] = []

    def watch(self, drop: Callable[[str], bool]) -> None:
        """From now on call `drop` with the key of each forgotten picture; it tells whether it had anything of it."""
        self._droppers.append(drop)

    def add(self, key: str) -> bool:
        """Forget a picture in this process; whether anything of it was there."""
        self._at[key] = monotonic()
        self._at.move_to_end(key)
        if len(self._at) > self._most:
            _, self._all_before = self._at.popitem(last=False)
        had_any = False
        for drop in self._droppers:
            had_any = drop(key) or had_any
        return had_any

    def since(self, key: str, began: float) -> bool:
        """Whether the picture was forgotten after work began.

        Args:
            key: of the picture.
            began: of the work, as `time.monotonic` tells it; before it looked for anything.
        """
        return began <= self._at.get(key, self._all_before)
