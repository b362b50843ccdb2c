"""State of a run over a folder: a file of JSON lines, one per image, which survives the end of the process at any time.

The first line has the kind and the settings of the run. Each further line has an image and its masks. A line that was
cut off by the end of the process is removed. The file is read line by line, so the memory does not grow with the number
of masks. It is locked while a run works with it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .locked_file import open_locked, remove_locked

_KEY_PREFIX: Final = "edgesam_"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What tells that the result of an image is out of date.

    Args:
        size: Size of the file, in bytes.
        modified_ns: Time of the file's modification, in nanoseconds.
        prompts: Digest of the image's prompts; empty for none.
    """

    size: int
    modified_ns: int
    prompts: str = ""

    @classmethod
    def of(cls, path: Path, prompts: str = "") -> "FileVersion":
        """Return the version of a file, with a digest of its prompts.

        Raises:
            OSError: if there is no such file.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, prompts)


class FolderState:
    """The state of a run; a context manager.

    Args:
        path: Path of the state file. It is made if it does not exist.
        kind: Kind of the run, which is a part of the settings.
        settings: Settings that the results depend on. A state with other settings is not continued.

    Raises:
        OSError: if the file cannot be read or written.
        ValueError: if the file is the state of a run with other settings, or no state.
        FileInUseError: if another run works with it.
    """

    def __init__(self, path: Path, kind: str, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._lines: dict[str, tuple[int, FileVersion]] = {}
        header = {f"{_KEY_PREFIX}{kind}": _VERSION, **settings}
        self._file = open_locked(path)
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
        """Whether the result of this version of an image is here."""
        return name in self._lines and self._lines[name][1] == version

    def __contains__(self, name: str) -> bool:
        """Whether there is a result of any version of an image."""
        return name in self._lines

    def add(self, name: str, version: FileVersion, result: Mapping[str, Any]) -> None:
        """Write the result of an image. It is on the disk when this returns. This blocks.

        Args:
            name: Name of the image.
            version: Version of the image.
            result: Further members of the image's line.

        Raises:
            OSError: if the line cannot be written.
        """
        line = {
            "file": name,
            "size": version.size,
            "modified_ns": version.modified_ns,
            **({"prompts": version.prompts} if version.prompts else {}),
            **result,
        }
        self._lines[name] = (self._append(line), version)

    def forget(self, name: str) -> None:
        """Leave an image without a result, as its earlier one is out of date."""
        self._lines.pop(name, None)

    def images(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """The lines of images that are here, in the order of the names. This blocks."""
        for name in names:
            if name in self._lines:
                yield self.line(name)

    def line(self, name: str) -> dict[str, Any]:
        """The line of an image that is here. This blocks."""
        self._file.seek(self._lines[name][0])
        line: dict[str, Any] = json.loads(self._file.readline())
        return line

    def remove(self) -> None:
        """Delete the file."""
        remove_locked(self._file, self.path)

    def _load(self, header: Mapping[str, Any]) -> None:
        self._file.seek(0)
        first, expected = self._file.readline(), _line(header)
        if first != expected:
            if not expected.startswith(first):  # neither empty nor cut off
                is_state = any(key.startswith(_KEY_PREFIX) for key in _object(first) or {})
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
            self._lines[document["file"]] = (end, _version_of(document))
            end += len(line)
        self._file.truncate(end)

    def _append(self, document: Mapping[str, Any]) -> int:
        """Append a line, and return where it begins."""
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(_line(document))
        self._file.flush()
        os.fsync(self._file.fileno())
        return start


def state_path(result: Path) -> Path:
    """The path of the state of a run that writes this file or folder."""
    return result.with_name(f"{result.name}.state.jsonl")


def _version_of(document: Mapping[str, Any]) -> FileVersion:
    return FileVersion(document["size"], document["modified_ns"], document.get("prompts", ""))


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
