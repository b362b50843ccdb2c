"""Low CPU priority for long runs in the background."""

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
# A session of niceness 12 still gets 7 % of a busy processor. At 19 it would get 1.5 %, too little for any progress.
_MAX_SESSION_NICENESS = 12


def lower_priority(niceness: int) -> None:
    """Lower the CPU priority of this process and of the processes that it starts from now on.

    Linux divides processor time between sessions first, and applies niceness only within a session (``man 7 sched``,
    autogroup). torchrun starts each process in its own session, where niceness alone has no effect. So the niceness of
    the session is raised as well, to 12 at most, if this process leads the session. The session of a terminal also
    contains other processes, and is left alone.

    Args:
        niceness: CPU niceness, 0 (normal) to 19 (lowest priority); a higher niceness of the process is kept.
    """
    os.nice(max(niceness - os.nice(0), 0))
    if niceness and os.getsid(0) == os.getpid() and _AUTOGROUP.exists():
        with suppress(OSError):  # a sandbox may forbid the write
            _AUTOGROUP.write_text(str(min(os.nice(0), _MAX_SESSION_NICENESS)))
