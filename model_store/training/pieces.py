"""Folders in pieces small enough for the way to a borrowed machine, and whole again there."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from model_store.catalog import ModelStoreError

INDEX_NAME = "pieces.json"


class PiecesError(ModelStoreError):
    """Pieces are missing or damaged; the message names the first."""


def split_folder(folder: Path, target: Path, *, piece_bytes: int) -> list[Path]:
    """Write a folder as an archive in pieces.

    Args:
        folder: what to pack; its files keep their places below it.
        target: folder for the pieces and their index.
        piece_bytes: size of each piece but the last.

    Returns:
        The files written.
    """
    target.mkdir(parents=True, exist_ok=True)
    writer = _PieceWriter(target, piece_bytes)
    with tarfile.open(mode="w|", fileobj=writer) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(path, path.relative_to(folder).as_posix())
    paths = writer.finish()
    index = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    (target / INDEX_NAME).write_text(json.dumps({"pieces": index}, indent=2))
    return [*paths, target / INDEX_NAME]


def join_folder(source: Path, target: Path) -> None:
    """Make the folder of its pieces.

    Args:
        source: folder with the pieces and their index.
        target: where the files go; made if it is not there.

    Raises:
        PiecesError: a piece is missing or damaged, or there is no index.
    """
    try:
        index = json.loads((source / INDEX_NAME).read_text())
    except (OSError, ValueError) as error:
        raise PiecesError(f"{source} has no readable {INDEX_NAME}") from error
    paths = []
    for piece in index["pieces"]:
        path = source / piece["file"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != piece["sha256"]:
            raise PiecesError(f"{path} is missing or damaged")
        paths.append(path)
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(mode="r|", fileobj=_PieceReader(paths)) as archive:
        archive.extractall(target, filter="data")


class _PieceWriter(io.RawIOBase):
    """A stream that goes to one file after the other."""

    def __init__(self, target: Path, piece_bytes: int) -> None:
        super().__init__()
        self._target, self._piece_bytes = target, piece_bytes
        self._paths: list[Path] = []
        self._file: BinaryIO | None = None
        self._left = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # tarfile writes bytes
        rest = memoryview(data)
        while rest:
            if self._left == 0:
                self._open_next()
            part = rest[: self._left]
            assert self._file is not None
            self._file.write(part)
            self._left -= len(part)
            rest = rest[len(part) :]
        return len(data)

    def finish(self) -> list[Path]:
        if self._file is not None:
            self._file.close()
        return self._paths

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self._target / f"piece-{len(self._paths):02d}.tar"
        self._paths.append(path)
        self._file = path.open("wb")
        self._left = self._piece_bytes


class _PieceReader(io.RawIOBase):
    """The files one behind the other."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._chunks = self._read(paths)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part = self._rest if size < 0 else self._rest[:missing]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            missing -= len(part) if size >= 0 else 0
        return b"".join(parts)

    @staticmethod
    def _read(paths: list[Path]) -> Iterator[bytes]:
        for path in paths:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    yield chunk
