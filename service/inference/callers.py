"""On whose behalf work is done: whose pictures it may find, and whose turn it takes where others wait too."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """One API key, as far as the work is concerned.

    Args:
        name: of the key; work under different names takes turns. "" where no keys are asked for: then all are one.
        namespace: part of every cache key (`service.sam.embedding.embedding_key`). Keys may share one.
    """

    name: str
    namespace: str


ANYBODY = Caller(name="", namespace="")

# How many times what is free one caller may hold. One alone may have 3/4 of the places, two 3/7 each, n of them
# 3/(3n + 1): however many have all they may, somebody who has nothing yet finds a place.
_SHARE = 3


def has_room(held: int, total: int, limit: int) -> bool:
    """Whether one of several callers may have one more of `limit` places.

    The bound follows what is free, so nobody has to know how many callers there are. (In switches: dynamic thresholds;
    Choudhury and Hahne, 1998.)

    Args:
        held: places this caller has.
        total: places all callers have.
        limit: places there are.
    """
    return total < limit and held < _SHARE * (limit - total)


class Turns:
    """Whose item is next where several wait: of those who wait the one that has had least; no credit for idle time.

    Start-time fair queuing with tags given when an item is taken (Goyal, Vin and Cheng, 1996): between two callers
    that wait all the time, what they have had differs by less than two of their largest items. With one caller it is
    first come, first served.
    """

    def __init__(self) -> None:
        self._now = 0  # the tag of the last turn; only ever grows
        self._had: dict[str, int] = {}

    def next(self, waiting: Iterable[str]) -> str:
        """Whose turn it is: of the callers that wait, the first of those that have had equally little."""
        chosen = min(waiting, key=self._tag)
        self._now = self._tag(chosen)
        return chosen

    def took(self, caller: str, size: int) -> None:
        """An item of this size was taken: of the caller whose turn it was, or of another that came along."""
        self._had[caller] = self._tag(caller) + size

    def forget(self) -> None:
        """Nobody waits any more: whoever comes next begins anew."""
        if self._had:
            self._now = 0
            self._had.clear()

    def _tag(self, caller: str) -> int:
        return max(self._had.get(caller, 0), self._now)
