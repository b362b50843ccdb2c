"""Low CPU priority for a run of hours in the background."""

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
# A session of niceness 12 still gets 7 % of a processor that others want; at 19 it would be 1.5 %, and a run of hours
# would stand still beside whoever works.
_NICEST_SESSION = 12


def lower_priority(niceness: int) -> None:
    """Lower the CPU priority of this process and of the processes that it starts from now on.

    Linux shares the processors between sessions first and weighs niceness only inside of a session (``man 7 sched``,
    autogroup). torchrun starts each process in a session of its own, where niceness alone would do nothing. So the
    session's niceness is raised as well, to 12 at most, when this process leads it. The session of a terminal belongs
    to others, too.

    Args:
        niceness: 0 (as usual) to 19 (only when nobody else computes); a process that is nicer already stays so.
    """
    os.nice(max(niceness - os.nice(0), 0))
    if niceness and os.getsid(0) == os.getpid() and _AUTOGROUP.exists():
        with suppress(OSError):  # a sandbox may forbid it
            _AUTOGROUP.write_text(str(min(os.nice(0), _NICEST_SESSION)))
