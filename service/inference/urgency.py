"""How soon the event loop's thread gets a processor on which somebody else computes."""

import asyncio
import os
from contextlib import suppress
from typing import Final

# Longer than a flood of any size leaves between two refusals, shorter than anybody remembers.
_CALM_S = 1.0


class LoopUrgency:
    """Usually at once: a click is read the moment it comes. While requests are refused, when the other's slice is over.

    Under a flood ten requests are refused for each that is answered. Each would take the decoder off its processor,
    and leave it with cold caches. As SCHED_BATCH the loop's thread waits for the end of the slice, some 3 ms, and finds
    several requests at once. Clicks without a flood would take half a millisecond longer so; hence only then.

    To be used on the event loop's thread.
    """

    def __init__(self) -> None:
        self._is_patient = False
        self._refused_at = 0.0

    def refused(self) -> None:
        """A request was refused because there is too much to do, or the caller asks too much."""
        loop = asyncio.get_running_loop()
        self._refused_at = loop.time()
        # Whoever started the process with another policy keeps it.
        if not self._is_patient and _policy() == _USUAL and _become(_PATIENT):
            self._is_patient = True
            loop.call_later(_CALM_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._refused_at + _CALM_S - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._look)
        else:
            self._is_patient = not _become(_USUAL)


# Only Linux has them.
_USUAL: Final = getattr(os, "SCHED_OTHER", 0)
_PATIENT: Final = getattr(os, "SCHED_BATCH", None)
# Threads that are started meanwhile are as urgent as ever. Nobody but a superuser may take this flag away again.
_NOT_INHERITED: Final = getattr(os, "SCHED_RESET_ON_FORK", 0)


def _policy() -> int | None:
    """Of this thread."""
    return os.sched_getscheduler(0) & ~_NOT_INHERITED if hasattr(os, "sched_getscheduler") else None


def _become(policy: int | None) -> bool:
    """Whether this thread has the policy now; a sandbox may forbid it."""
    if policy is not None:
        with suppress(OSError):
            os.sched_setscheduler(0, policy | _NOT_INHERITED, os.sched_param(0))
            return True
    return False
