"""The C library's allocator, told to keep what is free in one place."""

import ctypes
import os
from collections.abc import Mapping

_M_ARENA_MAX = -8  # of malloc.h


def share_one_arena(environment: Mapping[str, str] = os.environ) -> bool:
    """Let all threads take memory from one arena, unless the environment says how many; at the start of a process.

    Glibc gives nearly each thread an arena of its own, up to eight for each processor, and what is free in one serves
    no other thread. A picture's state, 8 MiB, is taken by one thread and freed by whichever has evicted it, so that
    under clicks which evict all the time memory went on growing for a quarter of an hour, to 120 MiB more than in use.
    The lock is no loss: small things come from Python's own pools, the rest is taken a few times a click.

    Args:
        environment: MALLOC_ARENA_MAX or GLIBC_TUNABLES in it have the last word.

    Returns:
        Whether it was done; other C libraries have no arenas to count.
    """
    if "MALLOC_ARENA_MAX" in environment or "glibc.malloc.arena_max" in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))
