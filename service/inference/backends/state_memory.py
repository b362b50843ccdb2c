"""Memory blocks for new image states, touched in advance or used before."""

import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from service.inference.scheduling.thread_priority import lower_thread_priority
from service.native.decoder import PACKED_SHAPE

Bytes = NDArray[np.uint8]


class StateMemory:
    """A few blocks of memory, one for each image state to come, whose pages the system has already provided.

    The first write to new memory takes longer than preparing the state in it: on a virtual machine the host has to
    provide the pages, too. So the block of a state that was evicted serves the next one. Where there is none, a thread
    of low priority writes to new blocks in advance. The first prompt on an image from Redis waits for neither.

    Args:
        spares: Number of blocks of 3 MiB that are kept ready. Images that arrive faster get untouched blocks.
    """

    def __init__(self, spares: int = 2) -> None:
        self._ready: deque[Bytes] = deque(maxlen=spares)  # of more blocks, the oldest ones are freed
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state-memory", initializer=lower_thread_priority)
        self._spares = spares
        self._executor.submit(self._touch)

    def take(self) -> tuple[Bytes, Bytes]:
        """Return packed keys0 and queries0, `PACKED_SHAPE` each, with arbitrary content, in one block.

        The block is used again when the last array that refers to it is freed.
        """
        try:
            block = self._ready.popleft()
        except IndexError:
            block = _block()
        if not self._ready:
            self._executor.submit(self._touch)
        lent = np.frombuffer(block.data, np.uint8).reshape(2, *PACKED_SHAPE)
        weakref.finalize(lent.base, self._ready.append, block).atexit = False
        return lent[0], lent[1]

    def _touch(self) -> None:
        while len(self._ready) < self._spares:
            block = _block()
            block.fill(0)
            self._ready.append(block)


def _block() -> Bytes:
    return np.empty(2 * int(np.prod(PACKED_SHAPE)), np.uint8)
