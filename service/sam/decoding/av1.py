"""The largest frame that a piece of AV1 makes a decoder allocate, and its number of frames.

A decoder allocates what the coded headers say, whatever the boxes around them say. Source: AV1 Bitstream & Decoding
Process Specification, sections 5.3 to 5.9.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from service.errors import UndecodableImage
from service.sam.decoding.bits import Bits
from service.sam.transforms import Size

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER = 1, 3, 6, 7
_FRAME_KINDS: Final = {_FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER}
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_BY_FRAME = 2  # the frame header chooses a tool
# An image is one frame, or a few layers of growing detail.
_MAX_FRAMES = 16
_MAX_UNITS = 256
# An image has one. Reading one takes 0.1 ms.
_MAX_SEQUENCES = 4


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What the header of a sequence says.

    Args:
        size: Height and width of the largest frame.
        is_reduced: Whether frames have the short header of still images.
        has_timing: Whether frames say when they are shown.
        time_bits: Number of bits of that time.
        screen_tools: 0 or 1, or `_BY_FRAME`.
        integer_motion: 0 or 1, or `_BY_FRAME`.
        number_bits: Number of bits of a frame's number; 0 if frames have none.
    """

    size: Size
    is_reduced: bool
    has_timing: bool = False
    time_bits: int = 0
    screen_tools: int = _BY_FRAME
    integer_motion: int = _BY_FRAME
    number_bits: int = 0


def av1_size(data: bytes | memoryview) -> Size | None:
    """Return height and width of the largest frame in a piece of AV1; None if it has no sequence header.

    Raises:
        UndecodableImage: The headers are broken, there are too many frames, or a frame has a size of its own.
    """
    sequence: _Sequence | None = None
    height = width = frames = sequences = 0
    try:
        for kind, content in _units(data):
            if kind == _SEQUENCE_HEADER:
                sequences += 1
                if sequences > _MAX_SEQUENCES:
                    raise UndecodableImage("The AVIF is coded like a video; save the image again.")
                sequence = _read_sequence(Bits(content))
                height, width = max(height, sequence.size[0]), max(width, sequence.size[1])
            elif kind in _FRAME_KINDS:
                frames += 1
                if frames > _MAX_FRAMES or sequence is None or _has_own_size(Bits(content), sequence):
                    raise UndecodableImage("The AVIF is coded like a video; save the image again.")
    except IndexError as error:
        raise UndecodableImage("The AV1 data of the AVIF is broken or cut off; send the complete file.") from error
    return (height, width) if sequence else None


def _units(data: bytes | memoryview) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield type and content of each open bitstream unit (OBU)."""
    at = 0
    for _ in range(_MAX_UNITS):
        if at >= len(data):
            return
        header = data[at]
        at += 1 + (header >> 2 & 1)
        length = len(data) - at
        if header >> 1 & 1:
            length = shift = 0
            for _ in range(8):
                byte = data[at]
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        yield header >> 3 & 15, data[at : at + length]
        at += length
    raise UndecodableImage(f"The AVIF has more than {_MAX_UNITS} units; save the image again.")


def _read_sequence(bits: Bits) -> _Sequence:
    bits.number(3)  # profile
    bits.flag()  # whether the sequence is a single image
    if bits.flag():
        bits.number(5)
        return _Sequence(_frame_size(bits), is_reduced=True)
    has_timing, time_bits = _skip_operating_points(bits)
    size = _frame_size(bits)
    number_bits = 0
    if bits.flag():  # frame_id_numbers_present
        number_bits = 2 + bits.number(4)
        number_bits += 1 + bits.number(3)
    bits.number(3)  # use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    bits.number(4)  # interintra, masked compound, warped motion, dual filter
    has_order = bits.flag()
    if has_order:
        bits.number(2)
    screen_tools = _BY_FRAME if bits.flag() else bits.number(1)
    integer_motion = _BY_FRAME
    if screen_tools > 0 and not bits.flag():
        integer_motion = bits.number(1)
    return _Sequence(size, False, has_timing, time_bits, screen_tools, integer_motion, number_bits)


def _skip_operating_points(bits: Bits) -> tuple[bool, int]:
    """Read up to the frame size; return whether frames say when they are shown, and the number of bits of that time."""
    has_model, has_timing, delay_bits, time_bits = False, False, 0, 0
    if bits.flag():  # timing_info_present
        bits.number(32)
        bits.number(32)
        has_equal_intervals = bits.flag()
        if has_equal_intervals:
            bits.exponential_golomb()
        has_model = bits.flag()
        if has_model:
            delay_bits = bits.number(5) + 1
            bits.number(32)
            bits.number(5)
            time_bits = bits.number(5) + 1
            has_timing = not has_equal_intervals
    has_display_delay = bits.flag()
    for _ in range(bits.number(5) + 1):
        bits.number(12)
        if bits.number(5) > 7:
            bits.flag()
        if has_model and bits.flag():
            bits.number(delay_bits)
            bits.number(delay_bits)
            bits.flag()
        if has_display_delay and bits.flag():
            bits.number(4)
    return has_timing, time_bits


def _frame_size(bits: Bits) -> Size:
    width_bits, height_bits = bits.number(4) + 1, bits.number(4) + 1
    width = bits.number(width_bits) + 1
    return bits.number(height_bits) + 1, width


def _has_own_size(bits: Bits, sequence: _Sequence) -> bool:
    """Return whether a frame header replaces the size in the sequence header, perhaps by a larger one."""
    if sequence.is_reduced or bits.flag():  # show_existing_frame
        return False
    kind, is_shown = bits.number(2), bits.flag()
    if is_shown and sequence.has_timing:
        bits.number(sequence.time_bits)
    if not is_shown:
        bits.flag()  # showable_frame
    if kind != _SWITCH_FRAME and not (kind == _KEY_FRAME and is_shown):
        bits.flag()  # error_resilient_mode
    bits.flag()  # disable_cdf_update
    screen_tools = bits.number(1) if sequence.screen_tools == _BY_FRAME else sequence.screen_tools
    if screen_tools and sequence.integer_motion == _BY_FRAME:
        bits.flag()
    bits.number(sequence.number_bits)
    return kind == _SWITCH_FRAME or bits.flag()
