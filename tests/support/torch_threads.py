"""Running torch on one thread: a context manager, and a fixture for modules whose tests run torch."""

import contextlib
from collections.abc import Iterator

import pytest
import torch


@contextlib.contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Limit torch to one thread: more threads sum in another order, and wait for cores that others hold.

    An export takes 2.5 times as long on two threads of a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread in all tests of a module."""
    with torch_on_one_thread():
        yield
