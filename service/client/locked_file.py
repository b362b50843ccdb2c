"""A file that one process at a time works with. The operating system ends the lock with the process."""

import os
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks ranges of bytes, which others cannot read then. This one is behind the end of every state file.
_LOCKED_BYTE = 0x7FFF_0000


class FileInUseError(ValueError):
    """Another process has locked the file."""


def open_locked(path: Path) -> BinaryIO:
    """Open a file to read and to append, and lock it until it is closed. It is made if it does not exist.

    Raises:
        FileInUseError: if another process has locked it.
        OSError: if the file cannot be opened, or its file system has no locks.
    """
    while True:
        file = path.open("a+b")
        try:
            _lock(file, path)
            # Its owner may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def remove_locked(file: BinaryIO, path: Path) -> None:
    """Delete the file and end its lock."""
    if sys.platform == "win32":  # it does not delete open files
        file.close()
        path.unlink(missing_ok=True)
    else:  # after the close, the file could be another process's
        path.unlink(missing_ok=True)
        file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        if sys.platform == "win32":
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise FileInUseError(
            f"Another run is working with {path}. Wait for its end, or name another result for this one."
        ) from error
