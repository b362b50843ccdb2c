"""On whose behalf work is done: whose pictures it may find, and whose turn it takes where others wait too."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Caller:
    """One API key, as far as the work is concerned.

    Args:
        name: of the key; work under different names takes turns. "" where no keys are asked for: then all are one.
        namespace: part of every cache key (`service.sam.embedding.embedding_key`). Keys may share one.
    """

    name: str
    namespace: str


ANONYMOUS = Caller(name="", namespace="")

# One place in eight is for those who have none; of two or three, each would be too much.
_RESERVE = 8
_LEAST_WITH_RESERVE = 4
# How many times what is free of the others one caller may hold. One alone may have 6/7 of them, 3/4 of all; two have
# 6/13 of them each, n of them 6/(6n + 1).
_SHARE = 6


def has_room(held: int, total: int, limit: int) -> bool:
    """Whether one of several callers may have one more of `limit` places.

    Who has one already gets more by a bound that follows what is free, so nobody has to know how many callers there
    are (in switches: dynamic thresholds; Choudhury and Hahne, 1998), and nothing of the reserve. So a newcomer finds a
    place, however many have all they may, while there are fewer of them than places; and in whatever order they come,
    at least while no more than an eighth of the places' number hold any. The reserve comes back as their work ends.

    No rule can promise that to more than limit - X others where one alone may have X, unless it takes places back.
    A larger reserve would promise it to more, and leave one alone less.

    Args:
        held: places this caller has.
        total: places all callers have.
        limit: places there are.
    """
    if held == 0:
        return total < limit
    reserve = -(-limit // _RESERVE) if limit >= _LEAST_WITH_RESERVE else 0
    return held < _SHARE * (limit - reserve - total)


class FairCapacity:
    """Places of one kind, and who has how many of them. Not locked: its owner sees to that.

    Args:
        limit: places there are.
        doing: what is done in one, for the client's message, such as `uploads are in progress`.
    """

    def __init__(self, limit: int, doing: str) -> None:
        self._limit = limit
        self._doing = doing
        self._taken = 0
        self._held: dict[str, int] = {}  # nobody is in it with 0

    def has_room(self, caller: str) -> bool:
        """Whether the caller may have one more; "" is nobody in particular, who may have all of them."""
        return has_room(self._of(caller), self._taken, self._limit)

    def check(self, caller: str) -> None:
        """Nothing, where the caller may have one more.

        Raises:
            Overloaded: all are taken, or the caller has its share of them.
        """
        if self.has_room(caller):
            return
        message = f"{self._limit} {self._doing}, the most this process takes."
        if self._taken < self._limit:
            share = f"its share of the {self._limit} this process takes."
            message = f"{self._of(caller)} {self._doing} for this key, {share}"
        raise Overloaded(f"{message} Retry shortly.", retry_after_s=1.0, extra={"limit": self._limit})

    def take(self, caller: str) -> None:
        """One more, whether there is room or not."""
        self._taken += 1
        self._held[caller] = self._held.get(caller, 0) + 1

    def give_back(self, caller: str) -> None:
        """One of those taken."""
        self._taken -= 1
        self._held[caller] -= 1
        if self._held[caller] == 0:
            del self._held[caller]

    def _of(self, caller: str) -> int:
        return self._held.get(caller, 0) if caller else 0


class FairScheduler:
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
