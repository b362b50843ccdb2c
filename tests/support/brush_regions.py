"""Decoder of Label Studio's brush regions, as in its editor."""

import numpy as np
from numpy.typing import NDArray


def unpacked(data: list[int]) -> NDArray[np.uint8]:
    """Return the values of data in the format of @thi.ng/rle-pack, decoded bit by bit as documented."""
    bits = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def read(count):
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    count, value_bits = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run = read(1)
        length = read(widths[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - position < 8
    return np.array(values, np.uint8)


def brush_pixels(rle: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a region: the pixels whose fourth channel, which the editor shows, is set."""
    return unpacked(rle).reshape(*size, 4)[..., 3] > 0
