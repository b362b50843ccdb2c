"""Blocks of memory for image states are used again."""

import numpy as np

from service.inference.backends.state_memory import StateMemory
from service.native.decoder import PACKED_SHAPE


def address(arrays: tuple[np.ndarray, np.ndarray]) -> int:
    return arrays[0].ctypes.data


def test_a_state_has_two_writable_arrays_in_one_block():
    keys0, queries0 = StateMemory().take()

    assert keys0.shape == queries0.shape == PACKED_SHAPE
    assert keys0.flags.carray
    assert queries0.ctypes.data - keys0.ctypes.data == keys0.nbytes


def test_the_block_of_a_freed_state_serves_a_later_one():
    memory = StateMemory(spares=1)
    first = memory.take()
    block = address(first)

    del first

    assert block in [address(state) for state in [memory.take(), memory.take()]]


def test_a_block_in_use_serves_no_other_state():
    memory = StateMemory(spares=3)
    view = memory.take()[1][0, :2, :4]  # keeps its block in use
    view[...] = 7

    others = [memory.take() for _ in range(8)]
    for arrays in others:
        for array in arrays:
            array.fill(1)

    assert len({address(each) for each in others}) == 8
    assert np.all(view == 7)
