"""The directories of a TIFF file: their tags, and the one that describes the image at full resolution.

The first directory of a TIFF may describe a thumbnail. A directory may refer to further ones (SubIFDs), as in DNG and
NEF. All numbers are checked before they are used: a file may be damaged, or made to be slow.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import UndecodableImage, UnsupportedImage

SUBFILE_TYPE: Final = 254
OLD_SUBFILE_TYPE: Final = 255
WIDTH: Final = 256
HEIGHT: Final = 257
BITS: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
FILL_ORDER: Final = 266
STRIP_OFFSETS: Final = 273
ORIENTATION: Final = 274
SAMPLES: Final = 277
ROWS_PER_STRIP: Final = 278
STRIP_BYTES: Final = 279
PLANAR: Final = 284
PREDICTOR: Final = 317
TILE_WIDTH: Final = 322
TILE_HEIGHT: Final = 323
TILE_OFFSETS: Final = 324
TILE_BYTES: Final = 325
SUB_DIRECTORIES: Final = 330
EXTRA_SAMPLES: Final = 338
SAMPLE_FORMAT: Final = 339
_DNG_VERSION: Final = 50706

_REDUCED, _MASK = 1, 4  # bits of SUBFILE_TYPE
_OLD_REDUCED: Final = 2
_RAW_PHOTOMETRICS: Final = {32803, 34892}  # colour filter array, and linear raw
# Files with thumbnails have two to ten directories, and pyramids one for each scale.
_MAX_DIRECTORIES: Final = 64
_MAX_TAGS: Final = 1024
_MAX_VALUES: Final = 1 << 18

_TYPES: Final = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True, slots=True)
class Form:
    """Byte order and word size of a TIFF file.

    Args:
        order: `<` or `>`, as in `struct`.
        is_big: Whether the file is a BigTIFF, with 64-bit positions.
    """

    order: Literal["<", ">"]
    is_big: bool

    @property
    def word(self) -> str:
        """Format of a position, as in `struct`."""
        return "Q" if self.is_big else "I"

    @property
    def count(self) -> str:
        """Format of the number of tags."""
        return "Q" if self.is_big else "H"

    @property
    def entry(self) -> struct.Struct:
        """Format of a tag: number, type, number of values, and the values or their position."""
        return struct.Struct(f"{self.order}HH{self.word}{struct.calcsize('<' + self.word)}s")

    @property
    def mark(self) -> bytes:
        """First bytes of the file, up to the position of the first directory."""
        mark = b"II" if self.order == "<" else b"MM"
        return mark + (struct.pack(self.order + "HHH", 43, 8, 0) if self.is_big else struct.pack(self.order + "H", 42))

    @property
    def first_position(self) -> int:
        """Place of the position of the first directory."""
        return 8 if self.is_big else 4


class Directory:
    """A directory of a TIFF file. Values are read when they are asked for.

    Args:
        data: The file.
        form: Byte order and word size of the file.
        position: Position of the directory.

    Raises:
        UndecodableImage: The directory is cut off or has too many tags.
    """

    def __init__(self, data: bytes, form: Form, position: int) -> None:
        self.data = data
        self.form = form
        self.position = position
        start = position + struct.calcsize("<" + form.count)
        (count,) = _unpack(data, form.order + form.count, position)
        entry = form.entry
        if count > _MAX_TAGS:
            raise UndecodableImage(f"The TIFF has a directory of {count} tags, at most {_MAX_TAGS} are read.")
        end = start + count * entry.size
        if end > len(data):
            raise UndecodableImage("The TIFF is cut off in a directory; send the complete file.")
        self._orientation_position: int | None = None
        self._entries: dict[int, tuple[int, int, bytes]] = {}
        for index, (tag, kind, number, value) in enumerate(entry.iter_unpack(data[start:end])):
            self._entries.setdefault(tag, (kind, number, value))
            if tag == ORIENTATION:
                self._orientation_position = start + (index + 1) * entry.size - len(value)
        (self.next_position,) = _unpack(data, form.order + form.word, end, missing=0)

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def count(self, tag: int) -> int:
        """Return the number of values of a tag; 0 if it is missing."""
        return self._entries[tag][1] if tag in self._entries else 0

    def values(self, tag: int) -> NDArray[np.uint64]:
        """Return the whole numbers of a tag, (n,); none if it is missing or of another type.

        Raises:
            UndecodableImage: There are too many values, or they are cut off.
        """
        kind, number, value = self._entries.get(tag, (0, 0, b""))
        if kind not in _TYPES:
            return np.empty(0, np.uint64)
        if number > _MAX_VALUES:
            raise UndecodableImage(f"The TIFF has a tag of {number} values, at most {_MAX_VALUES} are read.")
        dtype = np.dtype(self.form.order + _TYPES[kind])
        if number * dtype.itemsize <= len(value):
            return np.frombuffer(value, dtype, number).astype(np.uint64)
        (position,) = struct.unpack(self.form.order + self.form.word, value)
        if position + number * dtype.itemsize > len(self.data):
            raise UndecodableImage("The TIFF is cut off in the values of a tag; send the complete file.")
        return np.frombuffer(self.data, dtype, number, position).astype(np.uint64)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag; `default` if it is missing or of another type."""
        values = self.values(tag)
        return int(values[0]) if values.size else default

    def as_first(self) -> bytes:
        """Return the file with this directory as its first one, and without an orientation: for Pillow."""
        (first,) = _unpack(self.data, self.form.order + self.form.word, self.form.first_position)
        is_upright = self.number(ORIENTATION, 1) == 1
        if first == self.position and is_upright:
            return self.data
        changed = bytearray(self.data)
        struct.pack_into(self.form.order + self.form.word, changed, self.form.first_position, self.position)
        if self._orientation_position is not None and not is_upright:
            kind, number, value = self._entries[ORIENTATION]
            upright = np.ones(1, self.form.order + _TYPES[kind]).tobytes()
            if number == 1:
                changed[self._orientation_position : self._orientation_position + len(value)] = upright.ljust(
                    len(value), b"\0"
                )
        return bytes(changed)

    @property
    def is_reduced(self) -> bool:
        """Whether the directory describes a thumbnail, another reduced image, or a mask."""
        kind = self.number(SUBFILE_TYPE, 0)
        return bool(kind & (_REDUCED | _MASK)) or self.number(OLD_SUBFILE_TYPE, 0) == _OLD_REDUCED

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.number(WIDTH, 0) * self.number(HEIGHT, 0)


def image_directory(data: bytes) -> Directory:
    """Return the directory of the image at full resolution.

    That is the first one that is no thumbnail. A larger image in the sub-directories of a thumbnail, or of the first
    directory, goes before it.

    Args:
        data: A file that begins like a TIFF.

    Raises:
        UndecodableImage: The file has no directory, or so many that reading them is an attack, or they form a loop.
        UnsupportedImage: The file holds unprocessed data of a camera.
    """
    if data[8:10] == b"CR" and data[:2] == b"II":
        raise _raw()
    reduced = []
    for directory, is_sub in _directories(data):
        if _DNG_VERSION in directory or directory.number(PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS:
            raise _raw()
        if directory.is_reduced:
            reduced.append(directory)
        elif is_sub and reduced and directory.pixels < reduced[0].pixels:
            continue
        else:
            return _largest_of_subs(data, directory)
    if not reduced:
        raise UndecodableImage("The TIFF has no image; send the complete file.")
    return max(reduced, key=lambda each: each.pixels)


def _largest_of_subs(data: bytes, directory: Directory) -> Directory:
    """Return the directory, or the largest full image in its sub-directories."""
    largest = directory
    for position in _sub_positions(directory):
        sub = Directory(data, directory.form, position)
        if sub.number(PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS:
            raise _raw()
        if not sub.is_reduced and sub.pixels > largest.pixels:
            largest = sub
    return largest


def _directories(data: bytes) -> Iterator[tuple[Directory, bool]]:
    """Yield the directories of a file, each followed by its sub-directories; and whether it is one of these."""
    form = _form(data)
    seen: set[int] = set()

    def read(position: int) -> Directory:
        if position in seen:
            raise UndecodableImage("The directories of the TIFF form a loop; save the image again.")
        seen.add(position)
        if len(seen) > _MAX_DIRECTORIES:
            raise UndecodableImage(
                f"The first {_MAX_DIRECTORIES} directories of the TIFF are thumbnails; save the image again."
            )
        return Directory(data, form, position)

    (position,) = _unpack(data, form.order + form.word, form.first_position)
    while position:
        directory = read(position)
        yield directory, False
        for sub in _sub_positions(directory):
            yield read(sub), True
        position = directory.next_position


def _sub_positions(directory: Directory) -> list[int]:
    if directory.count(SUB_DIRECTORIES) > _MAX_DIRECTORIES:
        raise UndecodableImage(
            f"The TIFF has {directory.count(SUB_DIRECTORIES)} sub-directories, at most {_MAX_DIRECTORIES} are read."
        )
    return [int(position) for position in directory.values(SUB_DIRECTORIES)]


def _form(data: bytes) -> Form:
    for form in (Form("<", is_big=False), Form(">", is_big=False), Form("<", is_big=True), Form(">", is_big=True)):
        if data.startswith(form.mark):
            return form
    raise UndecodableImage("The header of the TIFF is damaged; send the complete file.")


def _unpack(data: bytes, form: str, position: int, missing: int | None = None) -> tuple[int, ...]:
    if position + struct.calcsize(form) > len(data):
        if missing is not None:
            return (missing,)
        raise UndecodableImage("The TIFF is cut off; send the complete file.")
    return struct.unpack_from(form, data, position)


def _raw() -> UnsupportedImage:
    return UnsupportedImage(
        "The file holds the unprocessed data of a camera (DNG, NEF, CR2 and the like), beside small previews. Develop "
        "it with a program for raw images, and send the result as JPEG, PNG or TIFF."
    )
