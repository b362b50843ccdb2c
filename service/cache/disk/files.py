"""Reading, writing and removing single files, without following links. A file that vanishes is no error."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from service.cache.disk.names import TEMPORARY_SUFFIX

_FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_WITHOUT_WAITING: Final = getattr(os, "O_NONBLOCK", 0)  # the opening of a pipe waits for a writer


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result] | None]:
    """Open a file for reading, and yield its descriptor and status; None if there is none.

    Links, pipes and devices count as none, also a link in place of the folder of the file.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        is_file = not path.parent.is_symlink() and stat.S_ISREG(path.lstat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | _FLAGS | _WITHOUT_WAITING) if is_file else None
    except (FileNotFoundError, NotADirectoryError):
        descriptor = None
    if descriptor is None:
        yield None
        return
    try:
        status = os.fstat(descriptor)
        yield (descriptor, status) if stat.S_ISREG(status.st_mode) else None  # another may have taken its place
    finally:
        os.close(descriptor)


def read_bytes(descriptor: int, nbytes: int) -> bytes:
    """Read so many bytes, fewer at the end of the file."""
    data = os.read(descriptor, nbytes)
    while len(data) < nbytes and (more := os.read(descriptor, nbytes - len(data))):
        data += more
    return data


def write_file(path: Path, parts: Sequence[bytes], *, stamp: int) -> bool:
    """Write a file that appears whole, by a rename. Its folder is created if there is none, for this user alone.

    The file is not forced onto the device: after a power failure it may be damaged.

    Args:
        path: Path of the file.
        parts: Content of the file.
        stamp: Time of modification of the file, nanoseconds.

    Returns:
        Whether the file is there; False if a deletion removed it before it was complete.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "is a link, which is not followed", str(path.parent))
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        try:
            for part in parts:
                _write_all(descriptor, part)
        finally:
            os.close(descriptor)  # a network file system may report here that it is full
        os.utime(temporary, ns=(stamp, stamp))
        temporary.replace(path)
    except FileNotFoundError:
        return False
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return True


def remove_file(path: Path) -> bool:
    """Remove a file, and return whether there was one.

    Raises:
        OSError: It cannot be removed.
    """
    if path.parent.is_symlink():
        return False
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds; nothing if there is none.

    Raises:
        OSError: The folder cannot be listed.
    """
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
