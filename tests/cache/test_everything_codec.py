"""Everything results as bytes: read back unchanged, and refused when anything in them is damaged or does not fit."""

import zlib
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache.everything_codec import MAX_VALUE_BYTES, EverythingCodec, NamedResult, ResultTooLarge
from service.cache.redis.everything_keys import KEYS_PER_IMAGE, result_key, result_keys
from service.sam.embedding import embedding_key
from service.sam.embedding_bytes import CorruptValue
from service.sam.everything.found_mask import EverythingMask
from service.sam.everything.record import RecordedResult, mask_of, record_of
from service.sam.masks import BinaryMask

SIZE = (37, 29)
WHOLE = (0, 0, SIZE[1], SIZE[0])
HEADER_BYTES = 5


def record(pixels, number=0):
    mask = BinaryMask.cut(pixels.shape, 0, 0, pixels)
    found = EverythingMask(number, mask, 0.9, 0.8, (3.5, 4.5), (0, 0, pixels.shape[1], pixels.shape[0]))
    return record_of(found)


def blobs(seed, share=0.5):
    return np.random.default_rng(seed).random(SIZE) < share


def result(count=3):
    masks = tuple(record(blobs(seed), seed) for seed in range(count))
    return NamedResult("the name", RecordedResult(SIZE, WHOLE, masks))


@settings(deadline=None)  # a busy machine
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_a_record_holds_exactly_the_pixels_of_its_mask(seed, share):
    pixels = blobs(seed, share)

    drawn = mask_of(record(pixels), SIZE)

    x0, y0, x1, y1 = drawn.box
    whole = np.zeros(SIZE, bool)
    whole[y0:y1, x0:x1] = drawn.crop
    assert (whole == pixels).all()
    assert drawn.area == pixels.sum()


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_result_is_read_back_unchanged(count):
    value = result(count)

    assert EverythingCodec().decode(EverythingCodec().encode(value)) == value


def test_an_empty_mask_is_read_back():
    value = NamedResult("", RecordedResult(SIZE, WHOLE, (record(np.zeros(SIZE, bool)),)))

    assert EverythingCodec().decode(EverythingCodec().encode(value)) == value


@settings(deadline=None)  # a busy machine
@given(st.data())
def test_bytes_that_were_changed_are_refused(data):
    value = bytearray(EverythingCodec().encode(result()))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(CorruptValue):
        EverythingCodec().decode(bytes(value))


@settings(deadline=None)  # a busy machine
@given(st.integers(0, 200))
def test_bytes_that_were_cut_off_are_refused(cut):
    value = EverythingCodec().encode(result())

    with pytest.raises(CorruptValue):
        EverythingCodec().decode(value[: -1 - cut])


@settings(deadline=None)  # a busy machine
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(junk):
    for data in (junk, b"ESEV\x01" + junk, b"ESEV\x01" + zlib.compress(junk)):
        with pytest.raises(CorruptValue):
            EverythingCodec().decode(data)


@pytest.mark.parametrize(
    "changed",
    [
        {"area": 1},
        {"bbox": (0, 0, 1, 1)},
        {"counts": ""},
        {"counts": "0"},
        {"counts": "é"},
        {"counts": "P" * 1000},
        {"id": -1},
        {"predicted_iou": float("nan")},
        {"stability_score": 1.5},
        {"point": (-1.0, 0.0)},
        {"point": (0.0, 38.0)},
        {"crop_box": (0, 0, 30, 37)},
        {"crop_box": (-1, 0, 10, 10)},
        {"id": "1"},
        {"id": 1},
        {"bbox": (0, 0, 1)},
    ],
    ids=str,
)
def test_a_mask_that_does_not_fit_is_refused(changed):
    masks = [*result(2).result.masks]
    masks[0] = replace(masks[0], **changed)
    value = NamedResult("the name", RecordedResult(SIZE, WHOLE, tuple(masks)))

    with pytest.raises(CorruptValue):
        EverythingCodec().decode(EverythingCodec().encode(value))


@pytest.mark.parametrize("size", [(0, 29), (-37, -29), (1 << 16, 1 << 16), (29, 37)])
def test_a_size_that_does_not_fit_is_refused(size):
    value = result()
    wrong = NamedResult(value.name, replace(value.result, size=size))

    with pytest.raises(CorruptValue):
        EverythingCodec().decode(EverythingCodec().encode(wrong))


def test_members_that_are_unknown_or_missing_are_refused():
    document = orjson.loads(zlib.decompress(EverythingCodec().encode(result())[HEADER_BYTES:]))
    for wrong in ({**document, "masks": {}}, {"name": "the name"}, [document], None):
        with pytest.raises(CorruptValue):
            EverythingCodec().decode(b"ESEV\x01" + zlib.compress(orjson.dumps(wrong)))


def test_a_result_that_is_too_large_is_not_stored():
    noise = np.random.default_rng(0).random((2000, 2000)) < 0.5
    masks = tuple(replace(record(noise), id=number) for number in range(20))
    value = NamedResult("", RecordedResult((2000, 2000), (0, 0, 2000, 2000), masks))

    with pytest.raises(ResultTooLarge):
        EverythingCodec().encode(value)


def test_a_bomb_is_refused_without_being_unpacked():
    bomb = b"ESEV\x01" + zlib.compress(bytes(1 << 28), 9)
    assert len(bomb) < MAX_VALUE_BYTES

    with pytest.raises(CorruptValue):
        EverythingCodec().decode(bomb)


def test_an_image_and_its_variants_have_the_same_keys_in_one_slot():
    plain, variant, other = (
        embedding_key(image_id, "f" * 16, "float16") for image_id in ("0" * 64, "0" * 64 + "~levels=full", "1" * 64)
    )
    keys = result_keys(plain)

    assert len(set(keys)) == KEYS_PER_IMAGE
    assert result_keys(variant) == keys
    assert not set(result_keys(other)) & set(keys)
    assert all(result_key(f"{key} {number}", key) in keys for key in (plain, variant) for number in range(50))
    assert {key.split("{")[1].split("}")[0] for key in keys} == {plain}
