"""Reading regular files that another program may have written, up to a bound and without waiting."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

# Windows has neither pipes with names nor descriptors that child processes inherit unasked, but files in text mode.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0)


def read_regular_file(path: Path, max_bytes: int, *, follows_links: bool) -> bytes:
    """Return the content of a regular file. A pipe or a device is refused without waiting for it.

    Args:
        path: Path of the file.
        max_bytes: Size of the largest expected file, in bytes. A larger file gives one byte more than this.
        follows_links: Whether the last part of the path may be a symbolic link.

    Raises:
        OSError: The path leads to no regular file, or the file cannot be read.
    """
    if not follows_links and not _NO_LINKS and path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed", str(path))
    descriptor = os.open(path, _FLAGS | (0 if follows_links else _NO_LINKS))
    # Checked before `open` wraps the descriptor: Python refuses to wrap that of a folder, and leaves it open.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        return file.read(max_bytes + 1)
