"""Logits are sent as float16 and refused in any other form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.sam.logits import decode_logits, encode_logits


@given(st.integers(0, 2**32 - 1))
def test_logits_are_read_back_in_float16(seed):
    values = np.random.default_rng(seed).normal(scale=20, size=(256, 256)).astype(np.float32)

    data = encode_logits(values)

    assert len(data) == 131072
    assert np.array_equal(np.frombuffer(data, "<f2").reshape(256, 256), values.astype(np.float16))
    assert np.array_equal(decode_logits(data), values.astype(np.float16).astype(np.float32))


def test_logits_beyond_float16_become_its_largest_number():
    values = np.full((256, 256), 1e6, np.float32)
    values[0] = -1e6

    found = decode_logits(encode_logits(values))

    assert found[0, 0] == -65504
    assert found[1, 0] == 65504


@pytest.mark.parametrize("data", [b"", b"\0" * 131071, b"\0" * 131074, b"\0" * 262144])
def test_logits_of_another_length_are_refused(data):
    with pytest.raises(InvalidRequest, match="131072"):
        decode_logits(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    values = np.zeros((256, 256), "<f2")
    values[7, 9] = value

    with pytest.raises(InvalidRequest, match="finite"):
        decode_logits(values.tobytes())
