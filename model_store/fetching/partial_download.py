"""Partial downloads: the received bytes of a file, in `<name>.part` beside its final path."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from model_store.errors import ModelStoreError

if sys.platform != "win32":
    import fcntl


class DownloadInUseError(ModelStoreError):
    """Another process is downloading the same file."""


class PartialDownload:
    """An open partial download, locked by this process; made by `open_partial_download`.

    Writes are unbuffered, so that a killed process leaves a file from which the next one resumes.
    """

    def __init__(self, file: FileIO, destination: Path) -> None:
        self._file = file
        self._destination = destination
        self._path = Path(f"{destination}.part")
        self._etag_path = Path(f"{destination}.part.etag")

    def size_bytes(self) -> int:
        """Return the number of received bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, chunk: bytes) -> None:
        """Append received bytes."""
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]

    def clear(self) -> None:
        """Discard all bytes and the entity tag."""
        self._file.truncate(0)
        self.store_etag("", "")

    def sha256(self) -> str:
        """Return the SHA-256 of the received bytes, lower-case hex."""
        self._file.seek(0)
        digest = hashlib.sha256()
        while chunk := self._file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()

    def store_etag(self, url: str, etag: str) -> None:
        """Store the entity tag with which a URL sent the bytes.

        Weak tags do not promise equal bytes and are not stored, nor are those that no request could contain. Of the
        URL only a hash is stored, since a URL may hold credentials.

        Args:
            url: Address that sent the bytes.
            etag: Value of the ETag header; empty for none.
        """
        if etag.startswith('"') and etag.isascii() and etag.isprintable():
            self._etag_path.write_text(f"{_url_hash(url)} {etag}")
        else:
            self._etag_path.unlink(missing_ok=True)

    def etag(self, url: str) -> str | None:
        """Return the entity tag with which this URL sent the bytes; None for another URL or without a tag."""
        try:
            url_hash, _, etag = self._etag_path.read_text(encoding="ascii").partition(" ")
        except (OSError, UnicodeDecodeError):
            return None
        return etag if url_hash == _url_hash(url) else None

    def finish(self) -> None:
        """Move the file to its final name in one step."""
        os.fsync(self._file.fileno())
        self._path.replace(self._destination)
        self._etag_path.unlink(missing_ok=True)

    def lock(self) -> None:
        """Lock the download until the file is closed. There is no wait, since the other process may take an hour.

        Raises:
            DownloadInUseError: Another process has locked it.
        """
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:  # or the other process has renamed it between our opening and our locking
            raise DownloadInUseError(
                f"another process is downloading {self._destination.name}; try again when it has finished"
            )

    def remove_if_empty(self) -> None:
        """Remove the files of a download without bytes."""
        if self._path.exists() and self.size_bytes() == 0:
            self._path.unlink()
            self._etag_path.unlink(missing_ok=True)


@contextmanager
def open_partial_download(destination: Path) -> Iterator[PartialDownload]:
    """Open the partial download of a file and lock it; one that is empty at the end is removed.

    Args:
        destination: Final path of the file; its directory is made.

    Raises:
        DownloadInUseError: Another process has it open.
        OSError: The file cannot be opened or written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileIO(f"{destination}.part", "a+") as file:
        partial = PartialDownload(file, destination)
        partial.lock()
        try:
            yield partial
        finally:
            partial.remove_if_empty()


def _url_hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
