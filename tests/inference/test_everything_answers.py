"""The bound on the bytes that the masks of one everything answer take."""

import pytest

from service.errors import InvalidRequest
from service.inference.everything_answers import MAX_ANSWER_BYTES, _Limit
from service.sam.everything.record import MaskRecord


def record(number):
    return MaskRecord(number, "counts", 1, (0, 0, 1, 1), 0.9, 0.9, (0.5, 0.5), (0, 0, 1, 1))


def test_masks_beyond_the_bound_are_refused_with_what_to_do():
    limit = _Limit()
    half = bytes(MAX_ANSWER_BYTES // 2)
    limit.add(record(1), half)

    with pytest.raises(InvalidRequest, match="max_masks") as refusal:
        limit.add(record(2), half)

    assert refusal.value.extra["errors"][0]["where"] == "/max_masks"


def test_a_dropped_mask_takes_no_bytes_and_can_be_found_again():
    limit = _Limit()
    most = bytes(MAX_ANSWER_BYTES - 100)

    for _ in range(3):
        limit.add(record(1), most)
        limit.remove(record(1))
    limit.add(record(2), most)
