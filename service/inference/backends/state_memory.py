"""Memory for the image states to come."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from service.inference.scheduling.thread_priority import lower_thread_priority
from service.native import STATE_SHAPES

Floats = NDArray[np.float32]


class StateMemory:
    """A few blocks of memory whose pages are there already.

    The first touch of a state's 8 MiB costs more than preparing the state: 6 ms against 3 on a virtual machine, where
    the host has to find the pages as well. So a thread that gives way to everything touches them ahead, and the first
    click on a picture from Redis does not wait for that.

    Args:
        spares: blocks of 8 MiB that lie ready; pictures that come faster find untouched ones.
    """

    def __init__(self, spares: int = 2) -> None:
        self._ready: deque[NDArray[np.float32]] = deque()
        self._toucher = ThreadPoolExecutor(1, thread_name_prefix="state-memory", initializer=lower_thread_priority)
        for _ in range(spares):
            self._toucher.submit(self._touch)

    def take(self) -> tuple[Floats, Floats, Floats]:
        """keys (1, 4096, 256), keys0 and queries0 (1, 4096, 128) with anything in them; they share one block."""
        try:
            block = self._ready.popleft()
        except IndexError:
            return _arrays(_block())
        self._toucher.submit(self._touch)
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
