"""Embeddings with maps of high resolution are read back from their bytes, and all other bytes are refused."""

import numpy as np
import pytest
from support.cache_values import FINGERPRINT, embedding, high_res, low_res_mask, proposing, sealed

from service.sam.embedding import HighResMaps, ImageEmbedding
from service.sam.embedding_bytes import (
    HEADER_BYTES,
    CorruptValue,
    embedding_from_bytes,
    embedding_info,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)


@pytest.mark.parametrize(("dtype", "mebibytes"), [(np.float16, 8), (np.float32, 16)])
def test_maps_of_high_resolution_are_read_back_bit_for_bit_without_a_copy(dtype, mebibytes):
    value = high_res(dtype)

    data = embedding_to_bytes(value, FINGERPRINT)
    found = embedding_from_bytes(data, FINGERPRINT, has_high_res=True)

    assert len(data) - 40 == value.nbytes == found.nbytes == mebibytes << 20
    assert data[5] == 4
    arrays = zip((found.tokens, *maps(found)), (value.tokens, *maps(value)), strict=True)
    for array, expected in arrays:
        assert array.dtype == dtype
        assert array.tobytes() == expected.tobytes()
        assert np.shares_memory(array, np.frombuffer(data, np.uint8))
        assert not array.flags.writeable
    assert embedding_info(data[:HEADER_BYTES], FINGERPRINT, has_high_res=True) == value.info


def maps(value):
    return value.high_res.s1, value.high_res.s0


@pytest.mark.parametrize("make", [embedding, proposing, low_res_mask])
def test_a_value_of_another_kind_is_corrupt_where_maps_are_expected_even_with_the_same_fingerprint(make):
    value = make()
    data = (embedding_to_bytes if isinstance(value, ImageEmbedding) else mask_to_bytes)(value, FINGERPRINT)

    for read in (embedding_from_bytes, embedding_info):
        with pytest.raises(CorruptValue, match="another kind"):
            read(data, FINGERPRINT, has_high_res=True)


def test_maps_are_corrupt_where_none_are_expected_even_with_the_same_fingerprint():
    data = embedding_to_bytes(high_res(), FINGERPRINT)

    for read in (embedding_from_bytes, embedding_info, mask_from_bytes):
        with pytest.raises(CorruptValue, match="another kind"):
            read(data, FINGERPRINT)


def test_maps_of_another_model_are_corrupt():
    data = embedding_to_bytes(high_res(), FINGERPRINT)

    with pytest.raises(CorruptValue, match="another model"):
        embedding_from_bytes(data, "fedcba9876543210", has_high_res=True)


def test_an_embedding_that_is_named_one_with_maps_is_corrupt_even_with_right_checksums():
    data = embedding_to_bytes(embedding(), FINGERPRINT)
    header = data[:5] + b"\x04" + data[6:40]

    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(sealed(header, data[40:]), FINGERPRINT, has_high_res=True)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0)], ids=str)
def test_maps_in_another_order_are_damaged(order):
    data = embedding_to_bytes(high_res(), FINGERPRINT)
    blocks = data[40 : 40 + (2 << 20)], data[40 + (2 << 20) : 40 + (4 << 20)], data[40 + (4 << 20) :]

    with pytest.raises(CorruptValue, match="damaged"):
        embedding_from_bytes(data[:40] + b"".join(blocks[each] for each in order), FINGERPRINT, has_high_res=True)


@pytest.mark.parametrize("length", [40, 40 + (2 << 20), 40 + (4 << 20), 39 + (8 << 20), 41 + (8 << 20), 60 + (8 << 20)])
def test_maps_that_are_cut_off_or_longer_are_corrupt_even_with_right_checksums(length):
    data = embedding_to_bytes(high_res(), FINGERPRINT)
    changed = (data + bytes(20))[:length]

    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(sealed(changed[:40], changed[40:]), FINGERPRINT, has_high_res=True)


@pytest.mark.parametrize("place", [5, 36, 40, 40 + (2 << 20), 40 + (4 << 20), -1])
def test_a_flipped_bit_of_maps_is_found(place):
    data = bytearray(embedding_to_bytes(high_res(), FINGERPRINT))
    data[place] ^= 4

    with pytest.raises(CorruptValue):
        embedding_from_bytes(bytes(data), FINGERPRINT, has_high_res=True)


def test_maps_of_another_shape_or_type_or_beside_proposals_are_a_bug_of_the_caller():
    value = high_res()
    s1, s0 = maps(value)

    with pytest.raises(ValueError, match="Maps are"):
        HighResMaps(s0, s1)
    with pytest.raises(ValueError, match="Maps are"):
        HighResMaps(s1, s0.astype(np.float32))
    with pytest.raises(ValueError, match="type of the tokens"):
        ImageEmbedding(value.tokens.astype(np.float32), (10, 10), high_res=value.high_res)
    with pytest.raises(ValueError, match="not both"):
        ImageEmbedding(value.tokens, (10, 10), proposing().proposals, high_res=value.high_res)
