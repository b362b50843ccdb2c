"""The markers of a JPEG file: its scans, its EXIF block and its end, read before libjpeg decodes the file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from service.errors import UndecodableImage

# Every scan of a progressive JPEG costs a pass over all its pixels, and an empty one takes a dozen bytes. Encoders
# write about ten, optimisers a few more. The second number is for images of `max_pixels`, whose passes are long.
_MAX_SCANS = 100
_MAX_LARGE_SCANS = 20
# Pillow reads everything before the first scan in Python. Large files have one segment for each 64 KiB of metadata.
_MAX_SEGMENTS = 4096
_MAX_PADDING_BYTES = 64 * 1024
# Quantisation tables and frame headers, which Pillow reads number by number. Images have about two KiB.
_MAX_TABLE_BYTES = 64 * 1024
# A marker that ends a scan or begins a segment: no stuffed 255 (0), no restart (D0-D7), none without parameters.
_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_RESTART_OR_SCAN: Final = re.compile(rb"\xff[\xd0-\xd7\xda]")
_FIRST_RESTART, _RESTARTS = 0xD0, 8
_APP0, _APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE0, 0xE1, 0xDA, 0xD9
# C4, C8 and CC are tables and an extension.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = {0xC2, 0xC6, 0xCA, 0xCE}
_EXIF: Final = b"Exif\0\0"
# A search holds Python's global lock: in a whole file for a quarter of a second.
_SEARCH_BYTES = 1 << 20
_COEFFICIENTS = 64


@dataclass(slots=True)
class JpegMarkers:
    """What the markers of the first image in a JPEG file say.

    Args:
        scans: Number of scans.
        has_end: Whether the image has its end marker.
        exif: EXIF block, without its prefix; empty without one. The first counts, as in browsers.
        missing: Coefficients that no scan completes, by component. A baseline scan completes all of its components.
    """

    scans: int = 0
    has_end: bool = False
    exif: bytes | memoryview = b""
    missing: dict[int, set[int]] = field(default_factory=dict)

    @property
    def has_all_coefficients(self) -> bool:
        """Whether each coefficient of each component has a scan that completes it."""
        return self.scans > 0 and not any(self.missing.values())


def jpeg_markers(data: bytes) -> JpegMarkers:
    """Return the markers of the first image in a JPEG file, as libjpeg will find them.

    Segments are skipped by their length, because metadata may hold any bytes, and thumbnails have scans. Bytes after
    the end of the image do not count: phones append whole videos. A file without an end is searched to its last byte.

    Raises:
        UndecodableImage: So many segments, or so many bytes between them, that reading them is an attack.
    """
    markers, header = JpegMarkers(), _Header()
    has_exif = is_progressive = False
    for marker, padding_bytes, content in _segments(data):
        if marker == _END_OF_IMAGE:
            markers.has_end = True
            break
        if markers.scans == 0:
            header.add(marker, padding_bytes, len(content))
        if marker == _START_OF_SCAN:
            markers.scans += 1
            _complete(markers.missing, content, is_progressive=is_progressive)
        elif marker in _FRAMES and not markers.missing:
            is_progressive = marker in _PROGRESSIVE
            markers.missing = {component: set(range(_COEFFICIENTS)) for component in content[6::3]}
        elif marker == _APP1 and not has_exif and markers.scans == 0 and bytes(content[: len(_EXIF)]) == _EXIF:
            has_exif = True
            markers.exif = content[len(_EXIF) :]
    return markers


class _Header:
    """The bytes before the first scan, which Pillow reads in Python."""

    def __init__(self) -> None:
        self._padding_bytes = 0
        self._table_bytes = 0

    def add(self, marker: int, padding_bytes: int, content_bytes: int) -> None:
        """Count a segment and the bytes before it.

        Args:
            marker: Second byte of the segment's marker.
            padding_bytes: Number of bytes between the segment before it and this one.
            content_bytes: Number of bytes of the segment.

        Raises:
            UndecodableImage: The JPEG has more padding or tables than images have.
        """
        self._padding_bytes += padding_bytes
        self._table_bytes += content_bytes if marker < _APP0 else 0
        if self._padding_bytes > _MAX_PADDING_BYTES:
            raise UndecodableImage("The JPEG has more padding than images have; save the image again.")
        if self._table_bytes > _MAX_TABLE_BYTES:
            raise UndecodableImage("The JPEG has larger tables than images have; save the image again.")


def _segments(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield for each segment its marker, the number of bytes before it that belong to none, and its content."""
    view, position = memoryview(data), 2
    for _ in range(_MAX_SEGMENTS):
        found = _next_marker(data, position)
        if found is None:
            return
        end = found + 2 + max(2, int.from_bytes(data[found + 2 : found + 4], "big"))
        yield data[found + 1], found - position, view[found + 4 : end]
        position = end
    raise UndecodableImage(f"The JPEG has more than {_MAX_SEGMENTS} segments; save the image again.")


def _complete(missing: dict[int, set[int]], scan: memoryview, *, is_progressive: bool) -> None:
    """Remove the coefficients that a scan completes.

    Args:
        missing: Coefficients that are missing, by component. It is changed.
        scan: Parameters of the scan: the number of components, each with its tables, then the range of coefficients
            and the bits before and after the scan that are still to come.
        is_progressive: Whether scans have a range.
    """
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return
    first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
    if not is_progressive:
        first, last, bits = 0, _COEFFICIENTS - 1, 0
    if bits & 15 == 0:
        for component in scan[1 : 1 + 2 * count : 2]:
            missing.get(component, set()).difference_update(range(first, last + 1))


def _next_marker(data: bytes, position: int) -> int | None:
    for start in range(position, len(data), _SEARCH_BYTES):
        if found := _MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return found.start()
    return None


def next_restart(data: bytes) -> bytes:
    """Return the restart marker that would follow the last one of the last scan: they are numbered from 0 to 7."""
    for end in range(len(data), 0, -_SEARCH_BYTES):
        found = list(_RESTART_OR_SCAN.finditer(data, max(0, end - _SEARCH_BYTES), end + 1))
        if found:
            last = data[found[-1].end() - 1]
            number = 0 if last == _START_OF_SCAN else (last - _FIRST_RESTART + 1) % _RESTARTS
            return bytes([0xFF, _FIRST_RESTART + number])
    return bytes([0xFF, _FIRST_RESTART])


def check_scans(scans: int, pixels: int, max_pixels: int) -> None:
    """Refuse a progressive JPEG whose passes over all its pixels would take long.

    Args:
        scans: Number of scans.
        pixels: Number of pixels of the image.
        max_pixels: Largest number of pixels that is accepted.

    Raises:
        UndecodableImage: The JPEG has too many scans.
    """
    if scans > _MAX_SCANS or scans * pixels > _MAX_LARGE_SCANS * max_pixels:
        most = min(_MAX_SCANS, _MAX_LARGE_SCANS * max_pixels // pixels)
        raise UndecodableImage(
            f"The JPEG has {scans} scans, at most {most} are decoded at its {pixels} pixels; save the image again."
        )
