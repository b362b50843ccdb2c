"""Reading regular files that another program may have written, up to a bound and without waiting."""

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, max_bytes: int, *, follows_links: bool) -> bytes:
    """Return the content of a regular file. A pipe or a device is refused without waiting for it.

    Args:
        path: Path of the file.
        max_bytes: Size of the largest expected file, in bytes. A larger file gives one byte more than this.
        follows_links: Whether the last part of the path may be a symbolic link.

    Raises:
        OSError: The path leads to no regular file, or the file cannot be read.
    """
    no_links = 0 if follows_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_links)
    # Checked before `open` wraps the descriptor: Python refuses to wrap that of a folder, and leaves it open.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        return file.read(max_bytes + 1)
