"""Memory blocks for new image states, touched in advance."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.onnx_graph import Floats
from service.inference.scheduling.thread_priority import lower_thread_priority
from service.native.decoder import STATE_SHAPES


class StateMemory:
    """A few blocks of memory, one for each image state to come, whose pages the system has already provided.

    The first write to the 8 MiB of a state takes longer than preparing the state. On a virtual machine it takes 6 ms
    against 3 ms, because the host has to provide the pages, too. So a thread of low priority writes to them in advance.
    The first prompt on an image from Redis then does not wait for that.

    Args:
        spares: Number of blocks of 8 MiB that are kept ready. Images that arrive faster get untouched blocks.
    """

    def __init__(self, spares: int = 2) -> None:
        self._ready: deque[NDArray[np.float32]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state-memory", initializer=lower_thread_priority)
        for _ in range(spares):
            self._executor.submit(self._touch)

    def take(self) -> tuple[Floats, Floats, Floats]:
        """Return keys (1, 4096, 256), keys0 and queries0 (1, 4096, 128) with arbitrary content, in one block."""
        try:
            block = self._ready.popleft()
        except IndexError:
            return _arrays(_block())
        self._executor.submit(self._touch)
        return _arrays(block)

    def _touch(self) -> None:
        block = _block()
        block.fill(0.0)
        self._ready.append(block)


def _block() -> Floats:
    return np.empty(sum(int(np.prod(shape)) for shape in STATE_SHAPES), np.float32)


def _arrays(block: Floats) -> tuple[Floats, Floats, Floats]:
    keys, keys0, queries0 = np.split(block, np.cumsum([int(np.prod(shape)) for shape in STATE_SHAPES[:-1]]))
    return keys.reshape(STATE_SHAPES[0]), keys0.reshape(STATE_SHAPES[1]), queries0.reshape(STATE_SHAPES[2])
