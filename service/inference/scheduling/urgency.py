"""How soon the event loop's thread gets a processor on which somebody else computes."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
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
        if not self._is_patient and _policy() == _USUAL and _become_patient():
            self._is_patient = True
            loop.call_later(_CALM_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._refused_at + _CALM_S - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._look)
        else:
            _become_usual()
            self._is_patient = False


# Only Linux has them.
_USUAL: Final = getattr(os, "SCHED_OTHER", None)
_PATIENT: Final = getattr(os, "SCHED_BATCH", None)
_TASKS: Final = Path("/proc/self/task")


def _policy() -> int | None:
    """Of this thread."""
    return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None


def _become_patient() -> bool:
    """Whether this thread waits from now on; a sandbox may forbid it."""
    if _PATIENT is not None:
        with suppress(OSError):
            os.sched_setscheduler(0, _PATIENT, os.sched_param(0))
            return True
    return False


def _become_usual() -> None:
    """Take the policy back, also from threads that this one has started meanwhile and that inherited it."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for task in (int(entry.name) for entry in _TASKS.iterdir()):
            with suppress(OSError):  # it has ended
                if os.sched_getscheduler(task) == _PATIENT:
                    os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))
