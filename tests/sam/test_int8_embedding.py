"""Embeddings in int8 are read back from their bytes, and all other bytes are refused."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support.cache_values import FINGERPRINT, MIB, embedding, high_res, in_int8, low_res_mask, proposing, sealed

from service.sam.embedding_bytes import (
    HEADER_BYTES,
    INFO_BYTES,
    CorruptValue,
    embedding_from_bytes,
    embedding_info,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)
from service.sam.int8_tokens import LARGEST_SCALE
from service.sam.region import Region

SCALES = slice(HEADER_BYTES + MIB, HEADER_BYTES + MIB + 1024)


def data_of(value=None):
    return embedding_to_bytes(in_int8(embedding()) if value is None else value, FINGERPRINT)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("count", [None, 0, 3])
def test_tokens_and_scales_are_read_back_bit_for_bit(count, kind):
    value = in_int8(embedding() if count is None else proposing(count))

    data = kind(data_of(value))
    found = embedding_from_bytes(data, FINGERPRINT)

    tail = 20 * (count or 0)
    assert len(data) == HEADER_BYTES + MIB + 1024 + tail
    assert found.nbytes == value.nbytes == 2 * MIB + 1024 + tail
    assert_array_equal(found.tokens, value.tokens, strict=True)
    assert_array_equal(found.scales, value.scales, strict=True)
    if count:
        assert_array_equal(found.proposals.boxes, value.proposals.boxes)
    assert data_of(found) == data, "a replica stores the same bytes again"


@pytest.mark.parametrize("value", [embedding(), proposing(3), high_res()], ids=["tokens", "proposals", "maps"])
def test_an_embedding_does_not_keep_its_bytes_in_memory(value):
    data = data_of(in_int8(value))

    found = embedding_from_bytes(data, FINGERPRINT, has_high_res=value.high_res is not None)

    arrays = [found.tokens, found.scales]
    arrays += [found.proposals.boxes, found.proposals.scores] if found.proposals is not None else []
    arrays += [found.high_res.s1, found.high_res.s0] if found.high_res is not None else []
    assert not any(np.shares_memory(array, np.frombuffer(data, np.uint8)) for array in arrays)


def test_the_bytes_are_the_numbers_row_by_row_and_the_scales():
    value = in_int8(embedding())

    data = data_of(value)

    assert (data[4], data[5], data[6]) == (2, 1, 3)
    numbers = np.frombuffer(data[HEADER_BYTES : HEADER_BYTES + MIB], np.int8).reshape(4096, 256)
    scales = np.frombuffer(data[SCALES], "<f4")
    assert_array_equal((numbers * scales).astype(np.float16), value.tokens)
    assert_array_equal(scales, np.abs(value.tokens).max(axis=0) / np.float32(127), strict=False)


def test_the_first_bytes_tell_what_answers_say_about_the_image():
    region = Region(5, 6, 500, 600)
    for value in (in_int8(embedding()), replace(in_int8(embedding()), region=region)):
        data = data_of(value)

        assert (
            embedding_info(data[:INFO_BYTES], FINGERPRINT) == value.info == embedding_from_bytes(data, FINGERPRINT).info
        )


def test_maps_beside_int8_tokens_are_float16_and_read_back_bit_for_bit():
    value = in_int8(high_res())

    data = data_of(value)
    found = embedding_from_bytes(data, FINGERPRINT, has_high_res=True)

    assert len(data) - HEADER_BYTES == 7 * MIB + 1024
    assert found.nbytes == value.nbytes == 8 * MIB + 1024
    assert_array_equal(found.tokens, value.tokens, strict=True)
    assert_array_equal(found.scales, value.scales, strict=True)
    assert_array_equal(found.high_res.s1, value.high_res.s1, strict=True)
    assert_array_equal(found.high_res.s0, value.high_res.s0, strict=True)
    with pytest.raises(CorruptValue, match="another kind"):
        embedding_from_bytes(data, FINGERPRINT)


@pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 256), (np.float16, 255)])
def test_scales_beside_other_tokens_are_a_bug_of_the_caller(dtype, channels):
    with pytest.raises(ValueError, match="Scales"):
        replace(embedding(dtype), scales=np.ones(channels, np.float32))


@pytest.mark.parametrize(
    "scale", [-1.0, np.nan, np.inf, -np.inf, np.nextafter(np.float32(LARGEST_SCALE), np.float32(9e9))]
)
def test_scales_out_of_their_range_are_corrupt_even_with_right_checksums(scale):
    data = bytearray(data_of())
    data[SCALES] = np.full(256, 0.01, "<f4").tobytes()[:-4] + struct.pack("<f", scale)

    with pytest.raises(CorruptValue, match="range"):
        embedding_from_bytes(sealed(bytes(data[:40]), bytes(data[40:])), FINGERPRINT)


def test_a_number_out_of_its_range_is_corrupt_even_with_right_checksums():
    data = bytearray(data_of())
    data[HEADER_BYTES + 77] = 0x80  # -128

    with pytest.raises(CorruptValue, match="range"):
        embedding_from_bytes(sealed(bytes(data[:40]), bytes(data[40:])), FINGERPRINT)


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, MIB + 1020, MIB + 1025, 2 * MIB, 4 * MIB])
@pytest.mark.parametrize("make", [embedding, lambda: proposing(0), high_res], ids=["plain", "proposals", "maps"])
def test_another_length_is_corrupt_even_with_right_checksums(make, length):
    header = data_of(in_int8(make()))[:HEADER_BYTES]

    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(sealed(header, bytes(length)), FINGERPRINT, has_high_res=make is high_res)


@pytest.mark.parametrize("code", [0, 1, 2, 4, 255])
def test_int8_tokens_under_the_name_of_another_type_are_corrupt_even_with_right_checksums(code):
    data = data_of()

    with pytest.raises(CorruptValue):
        embedding_from_bytes(sealed(data[:6] + bytes([code]) + data[7:40], data[40:]), FINGERPRINT)


@pytest.mark.parametrize("payload", [bytes(256 * 256 + 1024), bytes(256 * 256), bytes(2 * 256 * 256)])
def test_a_mask_in_int8_is_corrupt_even_with_right_checksums(payload):
    header = mask_to_bytes(low_res_mask(), FINGERPRINT)[:40]

    with pytest.raises(CorruptValue, match="another kind"):
        mask_from_bytes(sealed(header[:6] + b"\x03" + header[7:], payload), FINGERPRINT)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_found_wherever_it_is(data):
    value = bytearray(data_of())
    place = data.draw(st.one_of(st.integers(0, 39), st.integers(40, len(value) - 1), st.integers(-1024, -1)))
    value[place] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(CorruptValue):
        embedding_from_bytes(bytes(value), FINGERPRINT)
