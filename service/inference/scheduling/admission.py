"""How many requests may be in the process at once; a request is refused before anything of it is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.inference.scheduling.fairness import FairCapacity


class AdmissionController:
    """A semaphore that is tried and never awaited: waiting would hide that the process is full.

    No caller may have all of it (`FairCapacity`), so that one who floods the process does not shut the others out.

    Args:
        max_requests: permits.
        what: the work in a few words, for the client's message.
        check: raises Overloaded where what comes behind the door would refuse this caller in any case. Asked here it
            costs a fraction of a millisecond less, which under a flood is most of what there is.
    """

    def __init__(self, max_requests: int, what: str, *, check: Callable[[str], None] = lambda _: None) -> None:
        self._places = FairCapacity(max_requests, f"{what} are in progress")
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
        self._places.check(caller)
        self._places.take(caller)
        try:
            yield
        finally:
            self._places.give_back(caller)
