"""How many requests may be in the process at once; a request is refused before anything of it is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded
from service.inference.callers import has_room


class AdmissionController:
    """A semaphore that is tried and never awaited: waiting would hide that the process is full.

    No caller may have all of it (`has_room`), so that one who floods the process does not shut the others out.

    Args:
        max_requests: permits.
        what: the work in a few words, for the client's message.
        check: raises Overloaded where what comes behind the door would refuse this caller in any case. Asked here it
            costs a fraction of a millisecond less, which under a flood is most of what there is.
    """

    def __init__(self, max_requests: int, what: str, *, check: Callable[[str], None] = lambda _: None) -> None:
        self._taken = 0
        self._held: dict[str, int] = {}  # by caller; nobody is in it with 0
        self._max_requests = max_requests
        self._what = what
        self._check = check

    @contextmanager
    def permit(self, caller: str = "") -> Iterator[None]:
        """Hold one permit.

        Args:
            caller: who asks; "" where nobody is told apart, which then may have all of them together.

        Raises:
            Overloaded: none is free, or this caller has its share of them; or what `check` found.
        """
        self._check(caller)
        held, limit = self._held.get(caller, 0), self._max_requests
        if not has_room(held, self._taken, limit):
            full = f"{limit} {self._what} are in progress, the most this process takes."
            share = f"{held} {self._what} of this key are in progress, its share of the {limit} this process takes."
            message = full if self._taken >= limit else share
            raise Overloaded(f"{message} Retry shortly.", retry_after_s=1.0)
        self._taken += 1
        if caller:
            self._held[caller] = held + 1
        try:
            yield
        finally:
            self._taken -= 1
            if caller:
                self._give_back(caller)

    def _give_back(self, caller: str) -> None:
        if self._held[caller] == 1:
            del self._held[caller]
        else:
            self._held[caller] -= 1
