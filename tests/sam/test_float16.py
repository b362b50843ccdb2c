"""Both conversions equal NumPy's, bit for bit."""

import numpy as np
import pytest

from service.sam.float16 import as_float16, as_float32


def matrix(numbers):
    """Return the numbers in rows of 64, without an incomplete last row."""
    return numbers[: len(numbers) // 64 * 64].reshape(-1, 64)


def all_float16():
    """Return every finite float16."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return numbers[np.isfinite(numbers)]


def test_every_float16_survives_a_round_trip():
    numbers = matrix(all_float16())

    singles = as_float32(numbers)

    assert singles.dtype == np.float32
    assert np.array_equal(singles.view(np.uint32), numbers.astype(np.float32).view(np.uint32))
    assert np.array_equal(as_float16(singles).view(np.uint16), numbers.view(np.uint16))


@pytest.mark.parametrize("nudge", [-np.inf, None, np.inf])
def test_numbers_between_two_float16_numbers_are_rounded_as_by_numpy(nudge):
    numbers = np.sort(all_float16()).astype(np.float32)
    between = (numbers[1:] + numbers[:-1]) / 2
    singles = matrix(between if nudge is None else np.nextafter(between, np.float32(nudge)))

    assert np.array_equal(as_float16(singles).view(np.uint16), singles.astype(np.float16).view(np.uint16))


def test_random_numbers_of_all_sizes_are_rounded_as_by_numpy():
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-9, 4.8, (512, 64))
    singles = (random.choice([-1.0, 1.0], sizes.shape) * sizes).astype(np.float32)

    assert np.array_equal(as_float16(singles).view(np.uint16), singles.astype(np.float16).view(np.uint16))


def test_read_only_numbers_and_rows_with_gaps_are_taken_as_they_are():
    numbers = np.frombuffer(np.arange(128, dtype=np.float16).tobytes(), np.float16).reshape(2, 64)
    singles = np.arange(256, dtype=np.float32).reshape(2, 128)[:, :64]

    assert np.array_equal(as_float32(numbers), numbers.astype(np.float32))
    assert np.array_equal(as_float16(singles), singles.astype(np.float16))


def test_float16_numbers_of_a_batch_are_copies():
    batch = np.zeros((2, 4, 4), np.float16)

    numbers = as_float16(batch[0])

    assert numbers.base is None
    assert not np.shares_memory(numbers, batch)
