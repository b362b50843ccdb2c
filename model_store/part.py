"""The bytes of a download so far, in `<name>.part` beside the file they will be."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from model_store.catalog import ModelStoreError

if sys.platform != "win32":
    import fcntl


class PartInUseError(ModelStoreError):
    """Another process is fetching the same file."""


class Part:
    """An open part, this process's alone; made by `open_part`.

    Unbuffered, so that whatever ends this process leaves a part to go on from.
    """

    def __init__(self, file: FileIO, destination: Path) -> None:
        self._file = file
        self._destination = destination
        self._path = Path(f"{destination}.part")
        self._tag_path = Path(f"{destination}.part.etag")

    def size_bytes(self) -> int:
        """How much is here."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, piece: bytes) -> None:
        """Write behind what is here."""
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]

    def clear(self) -> None:
        """Forget everything."""
        self._file.truncate(0)
        self.keep_tag("", "")

    def sha256(self) -> str:
        """Hash of what is here, lower-case hex."""
        self._file.seek(0)
        digest = hashlib.sha256()
        while piece := self._file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()

    def keep_tag(self, url: str, etag: str) -> None:
        """Remember under which entity tag this URL gives what is here.

        Weak tags do not promise equal bytes and are not kept. Of the URL only a hash is: it may hold credentials.
        """
        if etag.startswith('"'):
            self._tag_path.write_text(f"{_url_hash(url)} {etag}")
        else:
            self._tag_path.unlink(missing_ok=True)

    def tag(self, url: str) -> str | None:
        """The entity tag under which this very URL gave what is here."""
        try:
            url_hash, _, etag = self._tag_path.read_text().partition(" ")
        except OSError:
            return None
        return etag if url_hash == _url_hash(url) else None

    def finish(self) -> None:
        """Give the file its name; a reader sees all of it or none."""
        os.fsync(self._file.fileno())
        self._path.replace(self._destination)
        self._tag_path.unlink(missing_ok=True)

    def lock(self) -> None:
        """Make it this process's until the file is closed; without waiting, the other one may take an hour.

        Raises:
            PartInUseError: another process has it.
        """
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:  # or the other one renamed it between our opening and our locking
            raise PartInUseError(
                f"another process is fetching {self._destination.name}; try again when it has finished"
            )

    def remove_if_empty(self) -> None:
        """Leave no trace of a download that has nothing."""
        if self._path.exists() and self.size_bytes() == 0:
            self._path.unlink()
            self._tag_path.unlink(missing_ok=True)


@contextmanager
def open_part(destination: Path) -> Iterator[Part]:
    """The part of `destination`, locked while open; one that is empty at the end is removed.

    Raises:
        PartInUseError: another process has it open.
        OSError: the disk refused.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileIO(f"{destination}.part", "a+") as file:
        part = Part(file, destination)
        part.lock()
        try:
            yield part
        finally:
            part.remove_if_empty()


def _url_hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
