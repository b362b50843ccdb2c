"""Segmenting through both clients: masks as arrays, refinement, and images that the service has lost."""

import numpy as np
import pytest
from pycocotools import mask as coco
from support.noise_images import noise_file

from service.client import EmbeddingNotFound, MaskNotFound, Prompt, PromptRefused

UNKNOWN = "4" * 64


@pytest.fixture
def image(client):
    return client.embed(noise_file((120, 160), seed=90))


def test_a_click_gives_masks_as_arrays_best_first(client, image):
    answer = client.segment(image, points=(80, 60))

    assert (answer.width, answer.height, answer.image_hash) == (160, 120, image.image_hash)
    assert len(answer.masks) == 4
    assert answer.best is answer.masks[0]
    assert [mask.score for mask in answer.masks] == sorted((mask.score for mask in answer.masks), reverse=True)
    for mask in answer.masks:
        rows, columns = np.nonzero(mask.pixels)
        assert (mask.pixels.shape, mask.pixels.dtype) == ((120, 160), np.bool_)
        assert mask.area == len(rows) > 0
        assert mask.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert mask.stability == mask.score
        assert isinstance(mask.predicted_iou, float)
        assert np.array_equal(mask.pixels, coco.decode({"size": mask.size, "counts": mask.counts}).astype(bool))
    assert answer.best.pixels is answer.best.pixels
    assert answer.timing.stages_ms["decode"] > 0
    assert answer.request_id


def test_points_labels_box_and_mask_are_one_prompt(client, image):
    first = client.segment(image, points=np.array([[80, 60], [10, 10]]), labels=[1, 0], box=[20, 10, 140, 110])
    refined = client.segment(image.image_hash, points=[(30, 30)], labels=[0], mask_id=first.best.mask_id)

    assert len(first.masks) == len(refined.masks) == 1
    assert refined.best.mask_id != first.best.mask_id


def test_several_prompts_are_answered_in_their_order(client, image):
    prompts = [Prompt(points=(80, 60)), Prompt(box=(5, 5, 60, 60))]

    answer = client.segment(image, prompts, multimask=3)
    alone = client.segment(image, box=(5, 5, 60, 60), multimask=3)

    assert [len(masks) for masks in answer.results] == [3, 3]
    assert [mask.counts for mask in answer.results[1]] == [mask.counts for mask in alone.masks]
    with pytest.raises(ValueError, match="too many values"):
        _ = answer.masks


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"labels": [1]},
        {"points": []},
        {"points": [1, 2, 3]},
        {"points": [(1, 2)], "labels": [1, 0]},
        {"points": [(1, 2)], "labels": [2]},
        {"points": [(1, float("nan"))]},
        {"box": (1, 2, 3)},
        {"box": (1, 2, 3, float("inf"))},
        {"prompts": []},
        {"prompts": [Prompt(box=(1, 1, 2, 2))], "points": [(1, 2)]},
    ],
)
def test_what_no_service_could_take_is_refused_here(client, prompt):
    with pytest.raises(ValueError, match=r".+"):
        client.segment(UNKNOWN, **prompt)


@pytest.mark.parametrize("image_hash", ["", "../models", "G" * 64, "0" * 63])
def test_what_is_no_hash_is_refused_here(client, image_hash):
    for call in (client.contains, client.forget, lambda text: client.segment(text, points=(1, 1))):
        with pytest.raises(ValueError, match="image_hash"):
            call(image_hash)


def test_what_the_service_refuses_says_why(client, image):
    with pytest.raises(PromptRefused, match=r"outside the image of 160 x 120") as outside:
        client.segment(image, points=(500, 5))
    with pytest.raises(MaskNotFound):
        client.segment(image, mask_id="0" * 32)
    with pytest.raises(EmbeddingNotFound, match=r"POST the image"):
        client.segment(UNKNOWN, points=(1, 1))

    assert (outside.value.status, outside.value.code) == (422, "prompt-outside-image")


def test_an_evicted_image_is_embedded_again(client, next_seed):
    embedded = client.embed(noise_file((30, 40), next_seed))
    before = client.segment(embedded, points=(20, 15))
    was_there = client.forget(embedded.image_hash)
    is_there, was_there_again = client.contains(embedded.image_hash), client.forget(embedded.image_hash)
    with pytest.raises(EmbeddingNotFound):  # a hash alone is nothing to embed
        client.segment(embedded.image_hash, points=(20, 15))

    after = client.segment(embedded, points=(20, 15))

    assert (was_there, is_there, was_there_again) == (True, False, False)
    assert [mask.counts for mask in after.masks] == [mask.counts for mask in before.masks]
    assert client.contains(embedded.image_hash)


def test_an_evicted_image_whose_file_has_changed_is_an_error(client, next_seed, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(noise_file((30, 40), next_seed))
    embedded = client.embed(path)
    client.forget(embedded.image_hash)
    path.write_bytes(noise_file((31, 41), next_seed))

    with pytest.raises(EmbeddingNotFound) as caught:
        client.segment(embedded, points=(20, 15))

    assert caught.value.__notes__ == [f"{path} has changed since and was not embedded again."]


def test_levels_and_bands_give_an_image_of_their_own(client, next_seed):
    data = noise_file((30, 40), next_seed)
    plain = client.embed(data)
    embedded = client.embed(data, levels="percentile", bands=(3, 2, 1))
    known = client.embed(data, levels="percentile", bands=(3, 2, 1))

    assert embedded.image_id == f"{plain.image_hash}~levels=percentile~bands=3,2,1"
    assert (plain.image_id, plain.applied_levels, embedded.applied_levels) == (plain.image_hash, "full", "percentile")
    assert (known.was_uploaded, known.applied_levels, known.width, known.height) == (False, "percentile", 40, 30)
    before = client.segment(embedded, points=(20, 15))
    assert (before.image_hash, before.image_id, before.orientation) == (plain.image_hash, embedded.image_id, 1)
    client.forget(embedded.image_id)
    assert client.contains(plain.image_id)
    after = client.segment(embedded, points=(20, 15))  # embedded again, and read in the same way
    assert [mask.counts for mask in after.masks] == [mask.counts for mask in before.masks]
    client.forget(plain.image_hash)
    assert not client.contains(embedded.image_id)


@pytest.mark.parametrize("reading", [{"levels": "bright"}, {"bands": (1, 2)}, {"bands": (0, 1, 2)}])
def test_levels_and_bands_that_do_not_exist_are_refused_here(client, reading):
    with pytest.raises(ValueError, match=r"levels|bands"):
        client.embed(noise_file((30, 40), seed=1), **reading)


def test_models_say_whether_they_are_trained(client):
    (model,) = client.models()

    assert (model.name, model.is_trained) == ("random", False)
    assert model.document["fingerprint"] == model.fingerprint


def test_a_binary_mask_is_a_prompt_as_array_and_as_answer(client, image):
    first = client.segment(image, points=(80, 60), multimask=1).best

    by_answer = client.segment(image, mask=first)
    by_array = client.segment(image, [Prompt(mask=first.pixels)])
    with_point = client.segment(image, points=(80, 60), mask=first.pixels.astype(np.uint8), multimask=1)

    assert len(by_answer.masks) == 1
    assert by_answer.best.mask_id == by_array.best.mask_id != with_point.best.mask_id


@pytest.mark.parametrize(
    ("mask", "reason"),
    [(np.zeros((120, 160)), "empty"), (np.ones((120, 160, 3)), r"\(height, width\)")],
)
def test_an_array_that_is_no_mask_is_refused_before_it_is_sent(mask, reason):
    with pytest.raises(ValueError, match=reason):
        Prompt(mask=mask)


def test_a_mask_of_another_size_is_refused_with_both_sizes(client, image):
    with pytest.raises(PromptRefused, match=r"160 x 121 pixels, and the upright image 160 x 120"):
        client.segment(image, mask=np.ones((121, 160), np.bool_))
