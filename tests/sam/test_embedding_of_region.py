"""Embeddings of a region name their region in their bytes, and values without one are read as before."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cache_values import FINGERPRINT, embedding, high_res, proposing, sealed

from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.embedding_bytes import (
    HEADER_BYTES,
    INFO_BYTES,
    CorruptValue,
    embedding_from_bytes,
    embedding_info,
    embedding_to_bytes,
)
from service.sam.region import Region

REGION = Region(100, 200, 1100, 900)


def of_region(value, region=REGION):
    return ImageEmbedding(value.tokens, value.original_size, value.proposals, 6, "percentile", value.high_res, region)


def with_corners(data, corners):
    """Return the bytes of a region's embedding with another region and right checksums."""
    placed = data[:HEADER_BYTES] + struct.pack("<4I", *corners)
    return placed + struct.pack("<I", zlib.crc32(placed)) + data[INFO_BYTES:]


@pytest.mark.parametrize("make", [embedding, proposing, high_res])
def test_a_region_is_read_back_also_from_the_beginning_alone(make):
    value = of_region(make())
    has_high_res = value.high_res is not None

    data = embedding_to_bytes(value, FINGERPRINT)
    found = embedding_from_bytes(data, FINGERPRINT, has_high_res=has_high_res)

    assert len(data) == 60 + value.nbytes
    assert found.info == value.info == ImageInfo((1200, 1600), 6, "percentile", REGION)
    assert embedding_info(data[:INFO_BYTES], FINGERPRINT, has_high_res=has_high_res) == value.info
    assert found.tokens.tobytes() == value.tokens.tobytes()


def test_the_bytes_of_a_whole_image_have_no_place_for_a_region():
    data = embedding_to_bytes(embedding(), FINGERPRINT)

    assert len(data) == 40 + embedding().nbytes
    assert embedding_info(data[:HEADER_BYTES], FINGERPRINT).region is None


@pytest.mark.parametrize(
    "corners",
    [(0, 0, 31, 32), (64, 0, 32, 32), (0, 0, 1601, 1200), (0, 0, 1600, 1201), (2**32 - 40, 0, 2**32 - 1, 32),
     (0, 0, 1600, 1200)],
)  # fmt: skip
def test_an_impossible_region_is_corrupt_even_with_right_checksums(corners):
    data = with_corners(embedding_to_bytes(of_region(embedding()), FINGERPRINT), corners)

    with pytest.raises(CorruptValue, match="region"):
        embedding_info(data[:INFO_BYTES], FINGERPRINT)
    with pytest.raises(CorruptValue, match="region"):
        embedding_from_bytes(data, FINGERPRINT)


@given(st.integers(0, 8 * (INFO_BYTES + 64) - 1))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_is_found(bit):
    data = bytearray(embedding_to_bytes(of_region(embedding()), FINGERPRINT))
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(CorruptValue):
        embedding_from_bytes(bytes(data), FINGERPRINT)


@pytest.mark.parametrize("length", [HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 19])
def test_a_region_that_is_cut_off_is_corrupt(length):
    data = embedding_to_bytes(of_region(embedding()), FINGERPRINT)

    with pytest.raises(CorruptValue, match="too few"):
        embedding_info(data[:length], FINGERPRINT)


def test_a_whole_image_that_claims_a_region_is_corrupt():
    data = embedding_to_bytes(embedding(), FINGERPRINT)
    changed = sealed(data[:7] + bytes([data[7] + 128]) + data[8:40], data[40:])

    with pytest.raises(CorruptValue, match="region"):
        embedding_from_bytes(changed, FINGERPRINT)


def test_a_region_outside_of_its_image_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="not in an image"):
        of_region(embedding(), Region(0, 0, 1601, 100))
