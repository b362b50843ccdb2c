"""The memory that a model takes: the size of its files, and the growth of the process while it was loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

_STATISTICS: Final = Path("/proc/self/statm")


class ModelMemory:
    """Memory and loading time of one model."""

    def __init__(self) -> None:
        self.artifact_bytes = 0
        """Sum of the sizes of the artifact's files."""
        self.load_s = 0.0
        """Seconds in which the model was loaded and warmed up."""
        self._grown_bytes: int | None = None

    @property
    def resident_bytes(self) -> int | None:
        """Growth of the process's resident memory in that time, in bytes; None where the system does not tell.

        Requests in the same time count as well, so the figure of a reload is less exact than that of a start. The first
        model of a process also has what ONNX Runtime takes once.
        """
        return None if self._grown_bytes is None else max(0, self._grown_bytes)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Return a context whose time and growth of memory count as those of the model."""
        before, started = _resident_bytes(), perf_counter()
        yield
        self.load_s += perf_counter() - started
        after = _resident_bytes()
        if before is not None and after is not None:
            self._grown_bytes = (self._grown_bytes or 0) + after - before


def _resident_bytes() -> int | None:
    """Return the resident memory of this process; None on systems other than Linux."""
    try:
        return int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):  # AttributeError: no sysconf on Windows
        return None
