"""State of a run over a folder: a file of JSON lines, one per image, which survives the end of the process at any time.

The first line has the settings of the run. Each further line has an image and its masks. A line that was cut off by the
end of the process is removed. The file is read line by line, so the memory does not grow with the number of masks.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .everything import Everything

_KEY: Final = "edgesam_everything"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What tells that a file has changed: its size in bytes, and its time of modification in nanoseconds."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileVersion":
        """Return the version of a file.

        Raises:
            OSError: if there is no such file.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


class EverythingState:
    """The state of a run; a context manager.

    Args:
        path: Path of the state file. It is made if it does not exist.
        settings: Settings that the results depend on. A state with other settings is not continued.

    Raises:
        OSError: if the file cannot be read or written.
        ValueError: if the file is the state of a run with other settings, or no state.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._lines: dict[str, tuple[int, FileVersion]] = {}
        header = {_KEY: _VERSION, **settings}
        self._file = path.open("a+b")
        try:
            self._load(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, name: str, version: FileVersion) -> bool:
        """Whether the masks of this version of a file are here."""
        return name in self._lines and self._lines[name][1] == version

    def add(self, name: str, version: FileVersion, found: Everything) -> None:
        """Write the masks of an image. They are on the disk when this returns. This blocks.

        Raises:
            OSError: if the line cannot be written.
        """
        line = {
            "file": name,
            "size": version.size,
            "modified_ns": version.modified_ns,
            "width": found.width,
            "height": found.height,
            "masks": [mask.record for mask in found.masks],
        }
        self._lines[name] = (self._append(line), version)

    def images(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """The lines of images that are here, in the order of the names. This blocks."""
        for name in names:
            if name in self._lines:
                self._file.seek(self._lines[name][0])
                yield json.loads(self._file.readline())

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _load(self, header: Mapping[str, Any]) -> None:
        self._file.seek(0)
        first, expected = self._file.readline(), _line(header)
        if first != expected:
            if not expected.startswith(first):  # neither empty nor cut off
                is_state = _KEY in (_object(first) or {})
                what = "the state of a run with other settings" if is_state else "no state of a run"
                raise ValueError(
                    f"{self.path} is {what}. Use the same options as before, delete the file, or name another result."
                )
            self._file.truncate(0)
            self._append(header)
            return
        end = len(first)
        for line in self._file:
            document = _object(line)
            if document is None or not line.endswith(b"\n"):
                break  # the process ended while it wrote this line
            self._lines[document["file"]] = (end, FileVersion(document["size"], document["modified_ns"]))
            end += len(line)
        self._file.truncate(end)

    def _append(self, document: Mapping[str, Any]) -> int:
        """Append a line, and return where it begins."""
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(_line(document))
        self._file.flush()
        os.fsync(self._file.fileno())
        return start


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
