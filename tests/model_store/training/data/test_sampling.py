"""How often photos and masks are drawn."""

from pathlib import Path

import pytest

from model_store.training.data.annotations import MaskRecord, PhotoRecord
from model_store.training.data.sampling import MIN_PHOTOS_FOR_SHARES, source_shares, weights


def photos(source, count, *masks):
    return [PhotoRecord(Path(f"{source}{number}.png"), (8, 8), source, masks=masks) for number in range(count)]


def a_mask(kind="object", votes=1):
    return MaskRecord({"size": [8, 8], "counts": b""}, kind, votes)


def test_groups_of_sources_have_their_share_whatever_their_number():
    shares = source_shares({"bsds500": 300, "coco128": 10, "coco_mini": 30, "ecssd": 9, "cats": 500, "mug": 500})

    assert shares["bsds500"] == pytest.approx(0.18)
    assert shares["coco128"] + shares["coco_mini"] == pytest.approx(0.22)
    assert shares["coco_mini"] == pytest.approx(3 * shares["coco128"])
    assert shares["ecssd"] == pytest.approx(0.21)
    assert shares["cats"] == pytest.approx(shares["mug"] / 0.3)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert source_shares({"cats": 3}) == {"cats": 1.0}
    assert source_shares({"coco_export": 100, "other": 100})["coco_export"] == 0.5, "a name like a group's is no member"


def test_masks_of_one_vote_and_of_stuff_are_drawn_less():
    records = [*photos("bsds500", 200, a_mask("region", 1), a_mask("region", 3)), *photos("x", 9, a_mask("stuff"))]

    photo_weights, mask_weights = weights(records)

    assert photo_weights.sum() == pytest.approx(1.0)
    assert mask_weights[:2].tolist() == pytest.approx([0.4, 1.0])
    assert mask_weights[-1] == 0.5


def test_in_a_small_data_set_every_photo_and_mask_counts_alike():
    records = [*photos("bsds500", 30, a_mask("region", 1)), *photos("mug", 5, a_mask(), a_mask("stuff"))]
    assert len(records) < MIN_PHOTOS_FOR_SHARES

    photo_weights, mask_weights = weights(records)

    assert photo_weights.tolist() == pytest.approx([1 / 35] * 35)
    assert mask_weights.tolist() == [1.0] * 40


def test_objects_can_be_preferred():
    _, mask_weights = weights(photos("x", 2, a_mask(), a_mask("part")), objects_bias=3.0)

    assert mask_weights.tolist() == [3.0, 1.0, 3.0, 1.0]
