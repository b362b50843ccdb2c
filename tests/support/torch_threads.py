"""A fixture for modules whose tests run torch."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread: more threads sum in another order, and wait for cores that others hold.

    An export takes 2.5 times as long on two threads then.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
