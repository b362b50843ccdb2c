"""The builds of the native library that this machine can run."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import service.native
from service.native import best_level


def runnable_levels() -> list[str]:
    """Return the instruction sets whose builds run here, the best one first."""
    levels = service.native._LEVELS
    best = best_level()
    return [] if best is None else list(levels[levels.index(best) :])


@contextmanager
def build_in_use(level: str) -> Iterator[None]:
    """Make `service.native` use one build, also where a better one runs.

    Args:
        level: Instruction set of the build, for instance `x86-64-v3`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.native, "_LEVELS", (level,))
        service.native._find.cache_clear()
        yield
    service.native._find.cache_clear()
