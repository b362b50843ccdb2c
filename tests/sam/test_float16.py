"""Both conversions are NumPy's, bit for bit."""

import numpy as np
import pytest

from service.sam.float16 import as_float16, as_float32


def matrix(numbers):
    """Rows of 64, without the rest."""
    return numbers[: len(numbers) // 64 * 64].reshape(-1, 64)


def all_halves():
    """Every finite float16."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return halves[np.isfinite(halves)]


def test_every_half_survives_the_way_there_and_back():
    halves = matrix(all_halves())

    singles = as_float32(halves)

    assert singles.dtype == np.float32
    assert np.array_equal(singles.view(np.uint32), halves.astype(np.float32).view(np.uint32))
    assert np.array_equal(as_float16(singles).view(np.uint16), halves.view(np.uint16))


@pytest.mark.parametrize("nudge", [-np.inf, None, np.inf])
def test_what_lies_between_two_halves_is_rounded_as_numpy_does(nudge):
    halves = np.sort(all_halves()).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2
    singles = matrix(between if nudge is None else np.nextafter(between, np.float32(nudge)))

    assert np.array_equal(as_float16(singles).view(np.uint16), singles.astype(np.float16).view(np.uint16))


def test_random_numbers_of_all_sizes_are_rounded_as_numpy_does():
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-9, 4.8, (512, 64))
    singles = (random.choice([-1.0, 1.0], sizes.shape) * sizes).astype(np.float32)

    assert np.array_equal(as_float16(singles).view(np.uint16), singles.astype(np.float16).view(np.uint16))


def test_read_only_numbers_and_rows_with_gaps_are_taken_as_they_are():
    halves = np.frombuffer(np.arange(128, dtype=np.float16).tobytes(), np.float16).reshape(2, 64)
    singles = np.arange(256, dtype=np.float32).reshape(2, 128)[:, :64]

    assert np.array_equal(as_float32(halves), halves.astype(np.float32))
    assert np.array_equal(as_float16(singles), singles.astype(np.float16))


def test_halves_of_a_batch_are_copies():
    batch = np.zeros((2, 4, 4), np.float16)

    halves = as_float16(batch[0])

    assert halves.base is None
    assert not np.shares_memory(halves, batch)
