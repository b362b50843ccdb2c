"""The largest frame that a piece of HEVC makes a decoder allocate, and its number of frames.

A decoder allocates what the coded headers say, whatever the boxes around them say. Source: ITU-T H.265, sections 7.3.1
and 7.3.2; ISO/IEC 14496-15 for the decoder's configuration (`hvcC`).
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from service.errors import UndecodableImage
from service.sam.decoding.bits import Bits
from service.sam.transforms import Size

_SEQUENCE_PARAMETERS: Final = 33
_FIRST_OTHER: Final = 32  # types below are slices of frames
_PROFILE_BITS, _LEVEL_BITS = 88, 8
_MAX_FRAMES = 16
_MAX_UNITS = 256
# An image has one. Reading one takes 0.1 ms.
_MAX_SEQUENCES = 4
# What the parameters need lies in their first bytes.
_PARAMETER_BYTES = 256
_CONFIGURATION_BYTES = 22


def hevc_size(configuration: memoryview, data: bytes | memoryview) -> Size | None:
    """Return height and width of the largest frame of an image; None if nothing says them.

    Args:
        configuration: Content of the `hvcC` box.
        data: The coded image.

    Raises:
        UndecodableImage: The headers are broken, or there are too many frames.
    """
    height = width = frames = sequences = 0
    try:
        length_bytes = (configuration[21] & 3) + 1
        for unit in _limited(_configured(configuration), _data_units(data, length_bytes)):
            kind = unit[0] >> 1 & 63
            if kind == _SEQUENCE_PARAMETERS:
                sequences += 1
                if sequences > _MAX_SEQUENCES:
                    raise UndecodableImage("The HEIC is coded like a video; save the image again.")
                size = _read_size(Bits(_without_emulation(unit[2:_PARAMETER_BYTES])))
                height, width = max(height, size[0]), max(width, size[1])
            elif kind < _FIRST_OTHER:
                frames += unit[2] >> 7  # the first slice of a frame
                if frames > _MAX_FRAMES:
                    raise UndecodableImage("The HEIC is coded like a video; save the image again.")
    except (IndexError, struct.error) as error:
        raise UndecodableImage("The HEVC data of the HEIC is broken or cut off; send the complete file.") from error
    return (height, width) if height and width else None


def _limited(*sources: Iterable[memoryview]) -> Iterator[memoryview]:
    units = 0
    for source in sources:
        for unit in source:
            units += 1
            if units > _MAX_UNITS:
                raise UndecodableImage(f"The HEIC has more than {_MAX_UNITS} units; save the image again.")
            yield unit


def _configured(configuration: memoryview) -> Iterator[memoryview]:
    """Yield the units of an `hvcC` box."""
    at = _CONFIGURATION_BYTES + 1
    for _ in range(configuration[_CONFIGURATION_BYTES]):
        (count,) = struct.unpack_from(">H", configuration, at + 1)
        at += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", configuration, at)
            yield configuration[at + 2 : at + 2 + length]
            at += 2 + length


def _data_units(data: bytes | memoryview, length_bytes: int) -> Iterator[memoryview]:
    """Yield the units of a coded image, each behind its length."""
    view, at = memoryview(data), 0
    while at + length_bytes < len(view):
        length = int.from_bytes(view[at : at + length_bytes], "big")
        yield view[at + length_bytes : at + length_bytes + length]
        at += length_bytes + length


def _without_emulation(content: memoryview) -> bytes:
    """Return the payload of a unit: without the 3 that separates two zeros from a small number."""
    return bytes(content).replace(b"\0\0\3", b"\0\0")


def _read_size(bits: Bits) -> Size:
    bits.number(4)
    sub_layers = bits.number(3)
    bits.flag()
    _skip(bits, _PROFILE_BITS + _LEVEL_BITS)
    present = [(bits.flag(), bits.flag()) for _ in range(sub_layers)]
    if sub_layers:
        _skip(bits, 2 * (8 - sub_layers))
    for has_profile, has_level in present:
        _skip(bits, _PROFILE_BITS * has_profile + _LEVEL_BITS * has_level)
    bits.exponential_golomb()  # number of the parameters
    if bits.exponential_golomb() == 3:  # 4:4:4
        bits.flag()
    width = bits.exponential_golomb()
    return bits.exponential_golomb(), width


def _skip(bits: Bits, count: int) -> None:
    for size in (*[32] * (count // 32), count % 32):
        bits.number(size)
