"""Reading files that others put there: regular ones alone, up to a bound, and without waiting. A leaf."""

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, max_bytes: int, *, follows_links: bool) -> bytes:
    """The content; a pipe or a device is not opened for long enough to wait for it.

    Args:
        path: of the file.
        max_bytes: the most that is read. One byte more comes back from a file that has more.
        follows_links: whether the last part of the path may be a symbolic link.

    Raises:
        OSError: it is none, or cannot be read.
    """
    no_links = 0 if follows_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_links)
    # Looked at before anything wraps it: Python refuses to wrap a folder, and leaves it open.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        return file.read(max_bytes + 1)
