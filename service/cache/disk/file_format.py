"""The content of a file of the disk tier: a header, the cache key, and the bytes of the value.

Little-endian:

    magic "ESDF" | version u8 | 3 zero bytes | key bytes u32 | value bytes u64 | start of the work u64, in milliseconds
    since 1970 | crc32 of the value u32 | crc32 of the header up to here and of the key u32 | key | value

The key shows that a file belongs under its name. The checksums show that it is whole.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"ESDF"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sB3xIQQI")
_CHECKSUM: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
MAX_KEY_BYTES: Final = 1024
MAX_VALUE_BYTES: Final = 64 << 20  # four times the largest embedding


class CorruptFile(ValueError):
    """A file is not what was written under its name: cut off, damaged, or the file of another key."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before its value.

    Args:
        began_at_ms: Start of the work that made the value, by the clock of its machine, milliseconds since 1970.
        value_bytes: Size of the value, bytes.
        checksum: CRC-32 of the value.
    """

    began_at_ms: int
    value_bytes: int
    checksum: int


def pack_header(key: str, value: bytes, began_at_ms: int) -> bytes:
    """Return the bytes before a value.

    Args:
        key: Cache key of the value.
        value: Bytes of the value.
        began_at_ms: Start of the work that made the value, milliseconds since 1970.
    """
    name = key.encode()
    header = _HEADER.pack(_MAGIC, _VERSION, len(name), len(value), began_at_ms, zlib.crc32(value))
    return header + _CHECKSUM.pack(zlib.crc32(name, zlib.crc32(header))) + name


def header_bytes(key: str) -> int:
    """Return the number of bytes before the value of a key."""
    return HEADER_BYTES + len(key.encode())


def unpack_header(data: bytes, key: str, file_bytes: int) -> Header:
    """Return the header of a file.

    Args:
        data: The first `header_bytes(key)` bytes of the file.
        key: Cache key that the file has to be of.
        file_bytes: Size of the file, bytes.

    Raises:
        CorruptFile: The file is damaged or cut off, or of another key.
    """
    name = key.encode()
    if len(data) != HEADER_BYTES + len(name):
        raise CorruptFile(f"{len(data)} bytes are too few for a header.")
    magic, version, key_bytes, value_bytes, began_at_ms, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise CorruptFile("The file is not one of this version.")
    if _CHECKSUM.unpack_from(data, _HEADER.size) != (
        zlib.crc32(memoryview(data)[HEADER_BYTES:], zlib.crc32(memoryview(data)[: _HEADER.size])),
    ):
        raise CorruptFile("The header is damaged, or of another key.")
    if key_bytes != len(name) or data[HEADER_BYTES:] != name:
        raise CorruptFile("The file is of another key.")
    if value_bytes > MAX_VALUE_BYTES or file_bytes != len(data) + value_bytes:
        raise CorruptFile(f"The file has {file_bytes} bytes.")
    return Header(began_at_ms, value_bytes, checksum)


def check_value(value: bytes, header: Header) -> None:
    """Check the bytes of a value.

    Raises:
        CorruptFile: They are cut off or damaged.
    """
    if len(value) != header.value_bytes or zlib.crc32(value) != header.checksum:
        raise CorruptFile("The value is damaged.")


def begun_at_ms(data: bytes) -> int:
    """Return the start of the work that made the value of a file, whatever its key; 0 if the file is not valid.

    Args:
        data: The first `HEADER_BYTES` bytes of the file, or more.
    """
    if len(data) < HEADER_BYTES:
        return 0
    magic, version, _, _, began_at_ms, _ = _HEADER.unpack_from(data)
    return began_at_ms if magic == _MAGIC and version == _VERSION else 0
