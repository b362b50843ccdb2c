"""A file that consists of parts of other files, without a copy of them."""

import bisect
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES = 64 * 1024


def joined_file(parts: Sequence[bytes | memoryview]) -> BinaryIO:
    """Return a readable, seekable file with the bytes of all parts, one behind the other.

    Args:
        parts: Contents of the file. They are not copied.
    """
    return io.BufferedReader(_Parts(parts), _BUFFER_BYTES)


class _Parts(io.RawIOBase):
    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._parts = [memoryview(part) for part in parts if len(part)]
        self._ends: list[int] = []
        for part in self._parts:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(part))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._ends[-1] if self._ends else 0)
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        index = bisect.bisect_right(self._ends, self._position)
        if index == len(self._parts):
            return 0
        part, target = self._parts[index], memoryview(buffer).cast("B")
        start = self._position - (self._ends[index] - len(part))
        length = min(len(target), len(part) - start)
        target[:length] = part[start : start + length]
        self._position += length
        return length
