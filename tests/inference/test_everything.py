"""The use case of everything mode with the bundled model: `fast` leaves out points that masks cover already."""

import json
from pathlib import Path

import pytest
from pycocotools import mask as coco
from support.sample_images import sample_image

BUNDLED = Path(__file__).resolve().parents[2] / "model_store" / "artifacts" / "edgesam-lite"
POINTS_PER_CALL = 16


@pytest.fixture
async def find(open_service):
    """A function that finds all objects of the sample of coins. It returns the lines, and the number of decoder calls."""
    service = await open_service(model_dir=BUNDLED, everything_timeout_s=300.0)
    embedded = await service.embed(sample_image("coins.jpg").path.read_bytes())
    image_hash = embedded.json()["image_hash"]

    async def find_(**parameters):
        before = await service.sample("edgesam_batch_size_count", lane="everything")
        response = await service.find_all(image_hash, **parameters)
        assert response.status_code == 200, response.text
        after = await service.sample("edgesam_batch_size_count", lane="everything")
        return [json.loads(line) for line in response.text.splitlines()], after - before

    return find_


def masks_of(lines):
    """Return the run lengths of the masks at the end of a stream, by id."""
    found = {line["id"]: line["segmentation"] for line in lines if line["event"] == "mask"}
    return {number: found[number] for number in lines[-1]["ids"]}


async def test_fast_decodes_fewer_points_and_finds_the_same_coins(find):
    plain, plain_calls = await find()
    fast, fast_calls = await find(fast=True)

    for lines in (plain, fast):
        assert (lines[0]["event"], lines[-1]["event"]) == ("start", "end")
        done = [line["done"] for line in lines if line["event"] == "progress"]
        assert done == sorted(done)
        assert done[-1] == lines[0]["prompts"] == 256
    assert plain_calls >= 256 / POINTS_PER_CALL
    assert fast_calls < plain_calls
    of_plain, of_fast = masks_of(plain), masks_of(fast)
    iou = coco.iou(list(of_fast.values()), list(of_plain.values()), [0] * len(of_plain)).max(axis=0)
    coins = [0.005 * 303 * 384 < coco.area(mask) < 0.05 * 303 * 384 for mask in of_plain.values()]
    assert sum(coins) > 20
    assert sum(found > 0.7 for found, is_coin in zip(iou, coins, strict=True) if is_coin) > 0.7 * sum(coins)


async def test_the_result_does_not_depend_on_the_order_in_which_calls_end(find):
    first, _ = await find(points_per_side=6)
    second, _ = await find(points_per_side=6)

    assert first[-1] == second[-1]
    assert masks_of(first) == masks_of(second)
