"""Embeddings and masks are read back from their bytes, and all other bytes are refused."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cache_values import FINGERPRINT, embedding, low_res_mask, proposing, sealed

from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash, is_embedding_key, mask_id, mask_key
from service.sam.embedding_bytes import (
    HEADER_BYTES,
    CorruptValue,
    embedding_from_bytes,
    embedding_info,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)
from service.sam.granularity import MAX_PROPOSALS


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_embedding_is_read_back_bit_for_bit(dtype):
    value = embedding(dtype)

    data = embedding_to_bytes(value, FINGERPRINT)
    found = embedding_from_bytes(data, FINGERPRINT)

    assert len(data) == 40 + value.nbytes
    assert found.tokens.dtype == dtype
    assert found.tokens.tobytes() == value.tokens.tobytes()
    assert found.original_size == (1200, 1600)
    assert found.nbytes == value.nbytes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("levels", ["full", "minmax", "percentile"])
def test_orientation_and_levels_are_read_back_also_from_the_header_alone(orientation, levels):
    value = ImageEmbedding(embedding().tokens, (1200, 1600), orientation=orientation, levels=levels)

    data = embedding_to_bytes(value, FINGERPRINT)

    assert embedding_from_bytes(data, FINGERPRINT).info == value.info
    assert (
        embedding_info(data[:HEADER_BYTES], FINGERPRINT) == value.info == ImageInfo((1200, 1600), orientation, levels)
    )


@pytest.mark.parametrize("reading", [0, 9, 15, 16, 25, 49, 127])
def test_an_orientation_or_levels_that_do_not_exist_are_corrupt_even_with_right_checksums(reading):
    data = embedding_to_bytes(embedding(), FINGERPRINT)
    changed = sealed(data[:7] + bytes([reading]) + data[8:40], data[40:])

    with pytest.raises(CorruptValue, match="read like"):
        embedding_from_bytes(changed, FINGERPRINT)
    with pytest.raises(CorruptValue, match="read like"):
        embedding_info(changed[:HEADER_BYTES], FINGERPRINT)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_embedding_with_an_impossible_orientation_is_a_bug_of_the_caller(orientation):
    with pytest.raises(ValueError, match="Orientations"):
        ImageEmbedding(embedding().tokens, (10, 10), orientation=orientation)


def test_reading_an_embedding_copies_nothing():
    data = embedding_to_bytes(embedding(), FINGERPRINT)

    found = embedding_from_bytes(data, FINGERPRINT)

    assert np.shares_memory(found.tokens, np.frombuffer(data, np.uint8))
    assert not found.tokens.flags.writeable


def test_the_bytes_of_an_embedding_are_little_endian_row_by_row():
    value = embedding()
    turned = ImageEmbedding(np.asfortranarray(value.tokens), value.original_size)

    data = embedding_to_bytes(turned, FINGERPRINT)

    assert data[40:] == value.tokens.astype("<f2").tobytes()
    assert data[:4] == b"ESAM"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("count", [0, 1, 1024, MAX_PROPOSALS])
def test_an_embedding_with_proposals_is_read_back_bit_for_bit(count, dtype):
    value = proposing(count, dtype)

    data = embedding_to_bytes(value, FINGERPRINT)
    found = embedding_from_bytes(data, FINGERPRINT)

    assert len(data) == 40 + value.nbytes == 40 + value.tokens.nbytes + 20 * count
    assert found.nbytes == value.nbytes
    assert np.array_equal(found.tokens, value.tokens)
    assert np.array_equal(found.proposals.boxes, value.proposals.boxes)
    assert np.array_equal(found.proposals.scores, value.proposals.scores)
    assert np.shares_memory(found.proposals.boxes, np.frombuffer(data, np.uint8)) is (count > 0)


def test_the_bytes_of_an_embedding_name_their_version_and_kind():
    data = embedding_to_bytes(embedding(), FINGERPRINT)

    assert (data[4], data[5], data[7]) == (2, 1, 1)
    assert embedding_to_bytes(proposing(), FINGERPRINT)[5] == 3
    assert embedding_from_bytes(data, FINGERPRINT).proposals is None


def test_proposals_behind_an_embedding_that_has_none_are_corrupt_even_with_right_checksums():
    data = embedding_to_bytes(proposing(1), FINGERPRINT)
    header = data[:5] + b"\x01" + data[6:40]

    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(sealed(header, data[40:]), FINGERPRINT)


@pytest.mark.parametrize("rest", [1, 4, 19, 21, 20 * MAX_PROPOSALS + 20])
def test_incomplete_rows_of_proposals_or_too_many_are_corrupt_even_with_right_checksums(rest):
    data = embedding_to_bytes(proposing(0), FINGERPRINT)

    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(sealed(data[:40], data[40:] + bytes(rest)), FINGERPRINT)


@pytest.mark.parametrize(
    "row",
    [
        [-1, 0, 10, 10, 0.5], [0, 0, 1025, 10, 0.5], [20, 0, 10, 10, 0.5], [0, 20, 10, 10, 0.5], [0, 0, 10, 10, 1.1],
        [0, 0, 10, 10, -0.1], [0, np.nan, 10, 10, 0.5], [0, 0, np.inf, 10, 0.5], [0, 0, 10, 10, np.nan],
    ],
)  # fmt: skip
def test_proposals_that_are_no_boxes_in_the_frame_are_corrupt_even_with_right_checksums(row):
    data = embedding_to_bytes(proposing(3), FINGERPRINT)
    payload = data[40:-20] + np.array(row, "<f4").tobytes()

    with pytest.raises(CorruptValue, match="boxes"):
        embedding_from_bytes(sealed(data[:40], payload), FINGERPRINT)


@pytest.mark.parametrize("place", [5, 36, 40, 40 + 2**21, -1])
def test_a_flipped_bit_of_an_embedding_with_proposals_is_found(place):
    data = bytearray(embedding_to_bytes(proposing(2), FINGERPRINT))
    data[place] ^= 2

    with pytest.raises(CorruptValue):
        embedding_from_bytes(bytes(data), FINGERPRINT)


def test_a_mask_is_read_back_in_float16():
    logits = low_res_mask()

    data = mask_to_bytes(logits, FINGERPRINT)
    found = mask_from_bytes(data, FINGERPRINT)

    assert len(data) == 40 + 131072
    assert found.dtype == np.float16
    assert np.array_equal(found, logits.astype(np.float16))


def test_a_value_of_another_model_is_corrupt():
    data = embedding_to_bytes(embedding(), FINGERPRINT)

    with pytest.raises(CorruptValue, match="another model"):
        embedding_from_bytes(data, "fedcba9876543210")


def test_a_mask_is_not_read_as_an_embedding_nor_an_embedding_as_a_mask():
    mask, tokens = mask_to_bytes(low_res_mask(), FINGERPRINT), embedding_to_bytes(embedding(), FINGERPRINT)

    with pytest.raises(CorruptValue, match="another kind"):
        embedding_from_bytes(mask, FINGERPRINT)
    with pytest.raises(CorruptValue, match="another kind"):
        mask_from_bytes(tokens, FINGERPRINT)


@pytest.mark.parametrize(
    "change",
    [(0, b"X"), (4, b"\x01"), (5, b"\x09"), (6, b"\x02"), (6, b"\x07"), (7, b"\x01"), (16, b"\0" * 16)],
)
def test_a_header_with_other_values_is_corrupt_even_with_right_checksums(change):
    place, replaced = change
    data = mask_to_bytes(low_res_mask(), FINGERPRINT)
    header = data[:place] + replaced + data[place + len(replaced) : 40]

    with pytest.raises(CorruptValue):
        mask_from_bytes(sealed(header, data[40:]), FINGERPRINT)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0), (1, 2**16 + 1), (2**32 - 1, 2**32 - 1), (2**16, 2**16)])
def test_an_embedding_of_an_impossible_image_is_corrupt_even_with_right_checksums(size):
    data = embedding_to_bytes(embedding(), FINGERPRINT)
    header = data[:8] + struct.pack("<II", *size) + data[16:40]

    with pytest.raises(CorruptValue, match="pixels"):
        embedding_from_bytes(sealed(header, data[40:]), FINGERPRINT)


def test_a_mask_with_infinite_logits_is_corrupt_even_with_right_checksums():
    data = mask_to_bytes(low_res_mask(), FINGERPRINT)
    payload = np.full(256 * 256, np.inf, "<f2").tobytes()

    with pytest.raises(CorruptValue, match="finite"):
        mask_from_bytes(sealed(data[:40], payload), FINGERPRINT)


@given(st.binary(max_size=300))
def test_random_bytes_are_corrupt(data):
    for read in (embedding_from_bytes, mask_from_bytes):
        with pytest.raises(CorruptValue):
            read(data, FINGERPRINT)


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"ESAM", b"ESAM\x02", b"ESAM\x02\x02\x01\x00"]))
def test_random_bytes_behind_a_valid_start_are_corrupt(data, start):
    for read in (embedding_from_bytes, mask_from_bytes):
        with pytest.raises(CorruptValue):
            read(start + data + b"\0" * 131072, FINGERPRINT)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_found_wherever_it_is(data):
    value = bytearray(mask_to_bytes(low_res_mask(), FINGERPRINT))
    place = data.draw(st.one_of(st.integers(0, 39), st.integers(0, len(value) - 1)))
    value[place] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(CorruptValue):
        mask_from_bytes(bytes(value), FINGERPRINT)


@settings(deadline=None)
@given(st.one_of(st.integers(0, 45), st.integers(0, 40 + 131071)), st.binary(max_size=3))
def test_a_value_that_is_cut_off_or_longer_is_corrupt(length, rest):
    value = mask_to_bytes(low_res_mask(), FINGERPRINT)

    for changed in (value[:length], value + b"\0" + rest):
        with pytest.raises(CorruptValue):
            mask_from_bytes(changed, FINGERPRINT)


def test_a_damaged_embedding_is_corrupt():
    value = bytearray(embedding_to_bytes(embedding(), FINGERPRINT))
    value[-1] ^= 1

    with pytest.raises(CorruptValue, match="damaged"):
        embedding_from_bytes(bytes(value), FINGERPRINT)
    with pytest.raises(CorruptValue, match="bytes"):
        embedding_from_bytes(bytes(value[:-1]), FINGERPRINT)


@pytest.mark.parametrize("tokens", [np.zeros((256, 4096), np.float16), np.zeros((4096, 256), np.float64)])
def test_tokens_of_another_shape_or_type_are_a_bug_of_the_caller(tokens):
    with pytest.raises(ValueError, match="Tokens"):
        ImageEmbedding(tokens, (10, 10))


def test_keys_name_the_form_the_model_the_precision_and_the_image():
    digest = image_hash(b"image")

    key = embedding_key(digest, FINGERPRINT, "float16")

    assert digest == hashlib.sha256(b"image").hexdigest()
    assert key == f"edgesam:2:{FINGERPRINT}:float16:{digest}"
    assert mask_key(key, "ab") == f"{key}:mask:ab"


def test_the_id_of_a_mask_is_a_hash_of_its_content():
    key, logits = embedding_key(image_hash(b"image"), FINGERPRINT, "float16"), low_res_mask()
    other = logits.copy()
    other[0, 0] += 1

    address = mask_id(key, logits)

    assert len(address) == 32
    assert address == mask_id(key, logits.astype(np.float16).astype(np.float32))
    assert address != mask_id(key, other)
    assert address != mask_id(key + "0", logits)


@pytest.mark.parametrize("namespace", ["", "a", "Team-1.x_y", "n" * 64])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_only_keys_of_the_same_model_and_precision_are_embedding_keys(namespace, dtype):
    key = embedding_key("0a" * 32, "f00d-bfloat16", dtype, namespace)

    assert is_embedding_key(key, "f00d-bfloat16", dtype)
    assert not is_embedding_key(key, "f00d", dtype)
    assert not is_embedding_key(key, "f00d-bfloat16", "float64")
    for other in (key[:-1], key + "0", key + "\n", f"{key}:mask:{'0' * 32}", key.upper(), key[1:], "", "*"):
        assert not is_embedding_key(other, "f00d-bfloat16", dtype)
