"""Fairness between callers: a share of bounded capacity for each API key, and fair queueing."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Caller:
    """The API key of a request, as far as the work is concerned.

    Args:
        name: Name of the key. Callers of different names share capacity and queues fairly. "" without API keys: then
            all requests have one caller.
        namespace: Part of every cache key (`service.sam.embedding.embedding_key`). Several keys may have the same one.
    """

    name: str
    namespace: str


ANONYMOUS = Caller(name="", namespace="")

# One permit in eight is reserved for callers without any. With two or three permits that would be too many.
_RESERVE = 8
_LEAST_WITH_RESERVE = 4
# A caller may hold this multiple of the free permits outside of the reserve. So one caller alone gets 6/7 of them,
# which is 3/4 of all. Two callers get 6/13 each, and n callers 6/(6n + 1) each.
_SHARE = 6


def may_acquire(held: int, total: int, limit: int) -> bool:
    """Return whether a caller may have one more of `limit` permits.

    A caller without any gets one while one is free. A caller with some gets more up to a bound that follows the number
    of free permits, and nothing of the reserve. So the number of callers need not be known. In network switches these
    are dynamic thresholds (Choudhury and Hahne, 1998).

    A new caller finds a permit, however many callers have their full share, while there are fewer callers than permits.
    In whatever order callers come, a new one finds a permit at least while no more than limit / 8 callers hold any. The
    reserve recovers when their work ends.

    No rule can guarantee this to more than limit - X other callers if one alone may have X, unless it takes permits
    back. A larger reserve would guarantee it to more callers, and leave less to one alone.

    Args:
        held: Number of permits that this caller holds.
        total: Number of permits that all callers hold.
        limit: Number of permits that exist.
    """
    if held == 0:
        return total < limit
    reserve = -(-limit // _RESERVE) if limit >= _LEAST_WITH_RESERVE else 0
    return held < _SHARE * (limit - reserve - total)


class FairCapacity:
    """Permits of one kind, and how many of them each caller holds. Not thread-safe: its owner locks it.

    Args:
        limit: Number of permits.
        work: Description of the work that holds them, for the client's message, such as `uploads are in progress`.
    """

    def __init__(self, limit: int, work: str) -> None:
        self._limit = limit
        self._work = work
        self._total = 0
        self._held: dict[str, int] = {}  # without callers that hold none

    def may_acquire(self, caller: str) -> bool:
        """Return whether the caller may have one more; "" stands for no key, and may have all of them."""
        return may_acquire(self._held_by(caller), self._total, self._limit)

    def check(self, caller: str) -> None:
        """Refuse a caller when the queue or the bound is full for it.

        Raises:
            Overloaded: All permits are held, or the caller holds its share.
        """
        if self.may_acquire(caller):
            return
        message = f"{self._limit} {self._work}, the most this process takes."
        if self._total < self._limit:
            share = f"its share of the {self._limit} this process takes."
            message = f"{self._held_by(caller)} {self._work} for this key, {share}"
        raise Overloaded(f"{message} Retry shortly.", retry_after_s=1.0, extra={"limit": self._limit})

    def acquire(self, caller: str) -> None:
        """Take one permit, whether the caller may have it or not."""
        self._total += 1
        self._held[caller] = self._held.get(caller, 0) + 1

    def release(self, caller: str) -> None:
        """Return one permit that the caller holds."""
        self._total -= 1
        self._held[caller] -= 1
        if self._held[caller] == 0:
            del self._held[caller]

    def _held_by(self, caller: str) -> int:
        return self._held.get(caller, 0) if caller else 0


class FairScheduler:
    """Chooses the next of several waiting callers: the one that was served least. Idle time earns no credit.

    This is start-time fair queueing with tags that are assigned when an item is taken (Goyal, Vin and Cheng, 1996).
    Two callers that wait all the time are served the same amount, up to less than two of their largest items. A single
    caller is served first come, first served.
    """

    def __init__(self) -> None:
        self._virtual_time = 0  # the tag of the last choice, which never decreases
        self._served: dict[str, int] = {}

    def next(self, waiting: Iterable[str]) -> str:
        """Return the next caller: of those that wait, the first one that was served least."""
        chosen = min(waiting, key=self._tag)
        self._virtual_time = self._tag(chosen)
        return chosen

    def charge(self, caller: str, size: int) -> None:
        """Charge an item of this size to its caller, be it the one that was next or another in the same batch."""
        self._served[caller] = self._tag(caller) + size

    def reset(self) -> None:
        """Reset the amounts that were served, once no caller waits."""
        if self._served:
            self._virtual_time = 0
            self._served.clear()

    def _tag(self, caller: str) -> int:
        return max(self._served.get(caller, 0), self._virtual_time)
