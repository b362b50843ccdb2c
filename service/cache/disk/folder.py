"""A folder of embeddings, bounded in bytes, which several processes may share. The least recently used file is evicted.

A file may vanish at any time, since another process may evict or delete it: that is a miss. Files with other names are
neither counted nor touched.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.cache.disk.file_format import (
    HEADER_BYTES,
    MAX_VALUE_BYTES,
    Header,
    begun_at_ms,
    check_value,
    header_bytes,
    pack_header,
    unpack_header,
)
from service.cache.disk.files import entries_of, opened, read_bytes, remove_file, write_file
from service.cache.disk.known_files import KnownFile, KnownFiles
from service.cache.disk.names import ImageFiles, file_name, is_file_name, is_shard_name, is_temporary_name, shard_of

# Files that are kept: 512 GiB of embeddings of 2 MiB. Each takes 300 bytes of this process's memory.
MAX_FILES: Final = 262_144
# Age of a file that a process began to write and never finished, seconds.
_ABANDONED_S: Final = 3600.0
_WRITE_ATTEMPTS: Final = 3  # on a full device
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class EmbeddingFolder:
    """Files by cache key in subfolders of one folder. All methods block, and may run in several threads.

    Args:
        path: Path of the folder.
        max_bytes: Bound on the sum of the files' sizes. Between two scans other processes may exceed it.
        max_files: Bound on the number of files.
        on_evicted: Function that is called for each evicted file.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        *,
        max_files: int = MAX_FILES,
        on_evicted: Callable[[], object] = lambda: None,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._on_evicted = on_evicted
        self._known = KnownFiles()

    @property
    def held_bytes(self) -> int:
        """Sum of the sizes of the known files, bytes."""
        return self._known.held_bytes

    @property
    def count(self) -> int:
        """Number of the known files."""
        return len(self._known)

    def create(self) -> None:
        """Create the folder, for this user alone, if there is none.

        Raises:
            OSError: It cannot be created, or is no folder.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def has(self, key: str) -> bool:
        """Return whether a file of a key is known. This does not ask the file system."""
        return file_name(key) in self._known

    def names(self) -> list[str]:
        """Return the names of the known files."""
        return self._known.names()

    def read(self, key: str) -> tuple[Header, bytes] | None:
        """Return header and value of a key, and mark the file as used; None if there is none.

        Raises:
            CorruptFile: The file is not what was written for this key.
            OSError: The file cannot be read.
        """
        name = file_name(key)
        with opened(self._path(name)) as found:
            if found is None:
                self._known.drop(name)
                return None
            descriptor, status = found
            header = unpack_header(read_bytes(descriptor, header_bytes(key)), key, status.st_size)
            value = read_bytes(descriptor, header.value_bytes)
        check_value(value, header)
        self._known.add_new(name, KnownFile(status.st_size, status.st_mtime_ns))
        with suppress(OSError):  # a folder that only others may write to
            self.mark_used(key)
        return header, value

    def read_start(self, key: str, nbytes: int) -> tuple[Header, bytes] | None:
        """Return the header and the first bytes of the value of a key; None if there is none. This is no use.

        Args:
            key: Cache key of the value.
            nbytes: Number of bytes.

        Raises:
            CorruptFile: The header is not one that was written for this key.
            OSError: The file cannot be read.
        """
        with opened(self._path(file_name(key))) as found:
            if found is None:
                return None
            descriptor, status = found
            header = unpack_header(read_bytes(descriptor, header_bytes(key)), key, status.st_size)
            return header, read_bytes(descriptor, nbytes)

    def begun_at_ms(self, name: str) -> int | None:
        """Return when the work that made a file began, milliseconds since 1970; 0 for a damaged file, None for none.

        Args:
            name: Name of the file.

        Raises:
            OSError: The file cannot be read.
        """
        with opened(self._path(name)) as found:
            return None if found is None else begun_at_ms(read_bytes(found[0], HEADER_BYTES))

    def is_stored(self, key: str) -> bool:
        """Return whether there is a file of a key, also one that another process has written just now.

        Raises:
            OSError: The file system does not tell.
        """
        name = file_name(key)
        with opened(self._path(name)) as found:
            if found is not None:
                self._known.add_new(name, KnownFile(found[1].st_size, found[1].st_mtime_ns))
        return found is not None

    def write(self, key: str, value: bytes, began_at_ms: int) -> bool:
        """Store a value, in place of an older one, and evict the least recently used files if there is no space.

        Args:
            key: Cache key of the value.
            value: Bytes of the value.
            began_at_ms: Start of the work that made the value, milliseconds since 1970.

        Returns:
            Whether the value is stored. A value larger than the bound is not, nor one that was deleted meanwhile.

        Raises:
            OSError: The file cannot be written.
        """
        header = pack_header(key, value, began_at_ms)
        nbytes = len(header) + len(value)
        if nbytes > self._max_bytes or len(value) > MAX_VALUE_BYTES:
            return False
        name = file_name(key)
        self._make_space(nbytes)
        for attempt in range(_WRITE_ATTEMPTS):
            stamp = self._known.next_stamp()
            try:
                is_stored = write_file(self._path(name), (header, value), stamp=stamp)
            except OSError as error:
                # The device is full, of files of others as well: this folder gets smaller.
                is_last = attempt + 1 == _WRITE_ATTEMPTS
                if is_last or error.errno not in _FULL or not self._evict_bytes(nbytes):
                    raise
                continue
            if is_stored:
                self._known.add(name, KnownFile(nbytes, stamp, time.monotonic()))
            return is_stored
        return False

    def mark_used(self, key: str) -> None:
        """Mark a file as the most recently used one, for other processes at most once a minute.

        Raises:
            OSError: The time of the file cannot be set.
        """
        name = file_name(key)
        stamp = self._known.use(name)
        if stamp is not None:
            with suppress(FileNotFoundError):
                os.utime(self._path(name), ns=(stamp, stamp))

    def remove(self, name: str) -> bool:
        """Remove a file, and return whether there was one.

        Raises:
            OSError: It cannot be removed.
        """
        was_there = remove_file(self._path(name))
        self._known.drop(name)
        return was_there

    def remove_image(self, files: ImageFiles) -> int:
        """Remove the files of an image, also those that are being written, and return how many there were.

        Raises:
            OSError: One of them cannot be removed.
        """
        removed = 0
        folder = self.path / files.shard
        if folder.is_symlink():
            return 0
        for entry in entries_of(folder):
            is_own = is_file_name(entry.name) or is_temporary_name(entry.name)
            if is_own and entry.name.startswith(files.prefix) and not entry.is_dir(follow_symlinks=False):
                removed += remove_file(folder / entry.name)
                self._known.drop(entry.name)
        return removed

    def scan(self) -> None:
        """List the folder, so that files of other processes and of earlier ones are known. Evict what is too much.

        Raises:
            OSError: The folder cannot be listed, or a file cannot be evicted.
        """
        self._known.begin_scan()
        found = None
        try:
            found = list(self._found())
        finally:
            self._known.end_scan(found)
        self._make_space(0)

    def _found(self) -> Iterator[tuple[int, str, int]]:
        """Yield stamp, name and size of each file, and remove what processes began to write long ago."""
        for shard in entries_of(self.path):
            if not is_shard_name(shard.name) or not shard.is_dir(follow_symlinks=False):
                continue
            for entry in entries_of(self.path / shard.name):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode) or shard_of(entry.name) != shard.name:
                        continue
                    if is_file_name(entry.name):
                        yield status.st_mtime_ns, entry.name, status.st_size
                    elif is_temporary_name(entry.name) and status.st_mtime < time.time() - _ABANDONED_S:
                        remove_file(self._path(entry.name))

    def _make_space(self, nbytes: int) -> None:
        for _ in range(len(self._known) + 1):  # files that another process has just used are evicted later
            if self.held_bytes + nbytes <= self._max_bytes and self.count + (nbytes > 0) <= self._max_files:
                return
            self._evict_oldest()

    def _evict_bytes(self, nbytes: int) -> bool:
        """Evict files of so many bytes, and return whether there were any."""
        wanted, count = max(0, self.held_bytes - nbytes), self.count
        for _ in range(count):
            if self.held_bytes <= wanted:
                break
            self._evict_oldest()
        return count > 0

    def _evict_oldest(self) -> None:
        oldest = self._known.pop_oldest()
        if oldest is None:
            return
        name, file = oldest
        path = self._path(name)
        try:
            status = path.lstat()
            if status.st_mtime_ns > file.stamp:  # another process uses it
                self._known.add_new(name, KnownFile(status.st_size, status.st_mtime_ns))
                return
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return  # another process evicted it
        except OSError:
            self._known.add_new(name, file)
            raise
        self._on_evicted()

    def _path(self, name: str) -> Path:
        return self.path / shard_of(name) / name
