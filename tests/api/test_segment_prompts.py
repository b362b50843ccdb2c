"""The number and order of the masks of a prompt, and the refinement of masks."""

import numpy as np
import pytest
from support.answered_masks import as_mask_logits, full_mask, logits_of
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, point, segment

from service.errors import EmbeddingNotFound, InvalidRequest, MaskNotFound, PromptOutsideImage
from service.sam.masks import AGREEMENT

SIZE = (60, 90)
BOX = {"box": [10, 10, 60, 50]}
TWO_POINTS = {"points": [{"x": 10, "y": 10}, {"x": 50, "y": 50, "label": 0}]}
BOX_AND_POINT = {**BOX, **point(20, 20)}


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, noise_file(SIZE, seed=20))


@pytest.mark.parametrize("prompt", [point(20, 20), TWO_POINTS, BOX, BOX_AND_POINT])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_multimask_is_the_number_of_masks(client, image_hash, prompt, count):
    (masks,) = segment(client, image_hash, prompt, multimask=count)

    assert len(masks) == count
    assert len({mask["mask_id"] for mask in masks}) == count


@pytest.mark.parametrize(
    ("prompt", "count"),
    [(point(20, 20), 4), (point(20, 20, label=0), 4), (TWO_POINTS, 1), (BOX, 1), (BOX_AND_POINT, 1)],
)
def test_auto_returns_several_masks_only_for_a_single_click(client, image_hash, prompt, count):
    (by_default,) = segment(client, image_hash, prompt)
    (auto,) = segment(client, image_hash, prompt, multimask="auto")

    assert len(auto) == count
    assert by_default == auto


def test_masks_are_ordered_by_stability_and_agreement_with_the_point(client, image_hash):
    points = [(x, y) for x in (5, 45, 85) for y in (5, 55)]
    results = segment(client, image_hash, *(point(x, y) for x, y in points), multimask=4)

    for (x, y), masks in zip(points, results, strict=True):
        stabilities = [mask["stability"] for mask in masks]
        assert stabilities == [mask["score"] for mask in masks]
        order_by = [mask["score"] + AGREEMENT * full_mask(mask, SIZE)[y, x] for mask in masks]
        assert order_by == sorted(order_by, reverse=True)
        assert all(0 <= stability <= 1 for stability in stabilities)


def test_three_masks_are_those_of_four_without_the_first(client, image_hash):
    (one,), (three,), (four,) = (segment(client, image_hash, point(30, 30), multimask=count) for count in (1, 3, 4))

    ids = {mask["mask_id"] for mask in four}
    assert {mask["mask_id"] for mask in three} | {one[0]["mask_id"]} == ids
    assert one[0]["mask_id"] not in {mask["mask_id"] for mask in three}


def test_prompts_keep_their_order_and_do_not_affect_each_other(client, image_hash):
    prompts = [point(5, 5), BOX, {"points": TWO_POINTS["points"] * 5}, point(80, 50), BOX_AND_POINT, point(5, 5)]

    together = segment(client, image_hash, *prompts, multimask=4, format="none")
    alone = [segment(client, image_hash, prompt, multimask=4, format="none")[0] for prompt in prompts]

    for of_batch, of_one in zip(together, alone, strict=True):
        for one, other in zip(of_batch, of_one, strict=True):
            np.testing.assert_allclose(
                [one["stability"], one["predicted_iou"]], [other["stability"], other["predicted_iou"]], atol=1e-3
            )
    assert together[0] == together[5]
    assert together[0] != together[3]


def test_more_prompts_than_a_decoder_call_takes_are_all_answered(client, image_hash):
    prompts = [point(x, y) for x in range(0, 90, 15) for y in range(0, 60, 15)]

    results = segment(client, image_hash, *prompts, multimask=1, format="none")

    assert len(results) == len(prompts) == 24
    assert len({masks[0]["mask_id"] for masks in results}) > 12


def test_refining_by_mask_id_equals_refining_by_logits(client, image_hash):
    (first,) = segment(client, image_hash, point(20, 20), multimask=1, format="logits")[0]
    click = {"points": [{"x": 70, "y": 40, "label": 0}]}

    (by_id,) = segment(client, image_hash, {**click, "mask_id": first["mask_id"]})[0]
    (by_logits,) = segment(client, image_hash, {**click, "mask_logits": first["logits"]})[0]
    (unrefined,) = segment(client, image_hash, click, multimask=1)[0]

    assert by_id == by_logits
    assert by_id["mask_id"] not in {first["mask_id"], unrefined["mask_id"]}


def test_a_mask_alone_is_a_prompt(client, image_hash):
    logits = np.where(np.hypot(*np.mgrid[-100:156, -60:196]) < 40, 8.0, -8.0)

    (by_logits,) = segment(client, image_hash, {"mask_logits": as_mask_logits(logits)}, format="logits")

    assert len(by_logits) == 1
    assert np.isfinite(logits_of(by_logits[0])).all()


def test_refined_and_plain_prompts_mix_in_one_request(client, image_hash):
    (first,) = segment(client, image_hash, point(20, 20), multimask=1)[0]
    refined = {**point(30, 30), "mask_id": first["mask_id"]}

    mixed = segment(client, image_hash, refined, BOX, refined, point(5, 5), multimask=1, format="none")
    alone = [segment(client, image_hash, prompt, multimask=1, format="none")[0] for prompt in (refined, BOX)]

    assert mixed[0] == mixed[2]
    for of_batch, of_one in zip(mixed[:2], alone, strict=True):
        np.testing.assert_allclose(of_batch[0]["stability"], of_one[0]["stability"], atol=1e-3)


def test_refined_masks_can_be_refined_again(client, image_hash):
    prompt, seen = point(20, 20), []

    for _ in range(4):
        (mask,) = segment(client, image_hash, prompt, multimask=1, format="none")[0]
        seen.append(mask["mask_id"])
        prompt = {**point(20, 20), "mask_id": mask["mask_id"]}

    assert len(set(seen)) == len(seen)


def test_a_mask_of_another_image_is_not_found(client, image_hash):
    other = embed(client, noise_file(SIZE, seed=21))
    (mask,) = segment(client, other, point(20, 20), multimask=1)[0]

    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [{"mask_id": mask["mask_id"]}]})

    assert_problem(response, MaskNotFound)


def test_an_evicted_mask_is_not_found(limited_client):
    image_hash = embed(limited_client, noise_file((20, 20), seed=22))
    (old,) = segment(limited_client, image_hash, point(5, 5), multimask=1)[0]
    (new,) = segment(limited_client, image_hash, point(15, 15), multimask=1)[0]

    answers = [
        limited_client.post("/segment", json={"image_hash": image_hash, "prompts": [{"mask_id": mask["mask_id"]}]})
        for mask in (new, old)
    ]

    assert answers[0].status_code == 200
    assert_problem(answers[1], MaskNotFound)


def test_an_unknown_image_is_not_found(client):
    response = client.post("/segment", json={"image_hash": "0" * 64, "prompts": [point(1, 1)]})

    assert "/embed" in assert_problem(response, EmbeddingNotFound)["detail"]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (90, 60), (0, 60), (44.7, 0.001)])
def test_a_point_may_lie_on_the_border(client, image_hash, x, y):
    (masks,) = segment(client, image_hash, point(x, y), multimask=1)

    assert len(masks) == 1


@pytest.mark.parametrize("box", [[-50, -50, 5, 5], [80, 50, 1000, 1000], [-1e6, -1e6, 1e6, 1e6], [0.2, 0.2, 0.3, 0.3]])
def test_a_box_may_extend_beyond_the_border(client, image_hash, box):
    (masks,) = segment(client, image_hash, {"box": box})

    assert len(masks) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        point(90.1, 10),
        point(-0.1, 10),
        point(10, 61),
        {"points": [{"x": 1, "y": 1}, {"x": 1, "y": -1, "label": 0}]},
        {"box": [90, 0, 95, 10]},
        {"box": [-9, -9, 0, 50]},
    ],
)
def test_a_prompt_outside_the_image_is_refused_with_the_bounds(client, image_hash, prompt):
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1), prompt]})

    assert "90 x 60" in assert_problem(response, PromptOutsideImage)["detail"]


def test_more_prompts_than_the_setting_allows_are_refused(limited_client):
    body = {"image_hash": "0" * 64, "prompts": [point(1, 1)] * 5}

    document = assert_problem(limited_client.post("/segment", json=body), InvalidRequest)

    assert document["limit"] == 4
    assert document["errors"][0]["where"] == "/prompts"
