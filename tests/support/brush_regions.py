"""Label Studio's brush regions, unpacked as its editor does it."""

import numpy as np
from numpy.typing import NDArray


def unpacked(data: list[int]) -> NDArray[np.uint8]:
    """The values of @thi.ng/rle-pack, bit by bit as its documentation has them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, value_bits = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run = read(1)
        length = read(widths[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


def brush_pixels(rle: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The (H, W) mask of a region: where its fourth channel, which the editor shows, is set."""
    return unpacked(rle).reshape(*size, 4)[..., 3] > 0
