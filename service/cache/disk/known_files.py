"""What a process knows of the files in a folder: their sizes, and the order of their last uses."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# A use is written to the file for other processes at most this often, seconds.
MARK_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as this process knows it.

    Args:
        nbytes: Size, bytes.
        stamp: Time of the last use as the file system has it, nanoseconds.
        marked_at: When this process last wrote the stamp, in seconds of `time.monotonic`.
    """

    nbytes: int
    stamp: int
    marked_at: float = float("-inf")


class KnownFiles:
    """The known files of a folder by name, for several threads.

    The order of use is that of the files' times of modification, which every use sets. Each is later than all that this
    process knows. So a clock that is set back does not change the order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, KnownFile] = OrderedDict()  # the least recently used first
        self._held_bytes = 0
        self._newest = 0
        self._during_scan: dict[str, KnownFile | None] | None = None  # what changed since the running scan began

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def held_bytes(self) -> int:
        """Sum of the sizes, bytes."""
        return self._held_bytes

    def names(self) -> list[str]:
        """Return all names, that of the least recently used file first."""
        with self._lock:
            return list(self._files)

    def add(self, name: str, file: KnownFile) -> None:
        """Know a file as the most recently used one, in place of what was known under its name."""
        with self._lock:
            self._set(name, file)

    def add_new(self, name: str, file: KnownFile) -> None:
        """Know a file that another process wrote, unless the name is known."""
        with self._lock:
            if name not in self._files:
                self._set(name, file)

    def drop(self, name: str) -> None:
        """Know a file no more."""
        with self._lock:
            self._set(name, None)

    def pop_oldest(self) -> tuple[str, KnownFile] | None:
        """Drop the least recently used file, and return it; None if there is none."""
        with self._lock:
            if not self._files:
                return None
            name, file = next(iter(self._files.items()))
            self._set(name, None)
            return name, file

    def next_stamp(self) -> int:
        """Return a time of use that is later than all known ones, nanoseconds."""
        with self._lock:
            return self._next_stamp()

    def use(self, name: str) -> int | None:
        """Make a file the most recently used one. Return the stamp to write to it; None if it needs none now."""
        now = time.monotonic()
        with self._lock:
            file = self._files.get(name)
            if file is None:
                return None
            self._files.move_to_end(name)
            if now < file.marked_at + MARK_EVERY_S:
                return None
            stamp = self._next_stamp()
            self._set(name, KnownFile(file.nbytes, stamp, now))
            return stamp

    def begin_scan(self) -> None:
        """Record changes from now on, so that `end_scan` does not undo them."""
        with self._lock:
            self._during_scan = {}

    def end_scan(self, found: Iterable[tuple[int, str, int]] | None) -> None:
        """Know the files that a scan found, and what has changed since it began.

        Args:
            found: Stamp, name and size of each file; None if the scan failed, which changes nothing.
        """
        with self._lock:
            changed, self._during_scan = self._during_scan or {}, None
            if found is None:
                return
            before, self._files, self._held_bytes = self._files, OrderedDict(), 0
            for stamp, name, nbytes in sorted(found):
                known = before.get(name)
                self._set(name, KnownFile(nbytes, stamp, float("-inf") if known is None else known.marked_at))
            for name, file in changed.items():
                self._set(name, file)

    def _set(self, name: str, file: KnownFile | None) -> None:
        """Know a file, or none; the caller holds the lock."""
        old = self._files.pop(name, None)
        self._held_bytes -= 0 if old is None else old.nbytes
        if file is not None:
            self._files[name] = file
            self._held_bytes += file.nbytes
            self._newest = max(self._newest, file.stamp)
        if self._during_scan is not None:
            self._during_scan[name] = file

    def _next_stamp(self) -> int:
        self._newest = max(time.time_ns(), self._newest + 1)
        return self._newest
