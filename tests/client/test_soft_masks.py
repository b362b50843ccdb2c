"""Masks with a soft edge through both clients."""

import numpy as np
import pytest
from support.noise_images import noise_file

from service.client import Prompt, PromptRefused, UnexpectedAnswer
from service.client.messages import Answer
from service.client.soft_masks import read_soft_mask

HEADERS = {
    "x-image-size": "160,120",
    "x-image-orientation": "1",
    "x-mask-score": "0.9",
    "x-mask-area": "12",
    "x-mask-id": "0" * 32,
    "x-mask-box": "10,10,14,13",
    "x-alpha-box": "9,9,15,14",
}


@pytest.fixture
def image(client):
    return client.embed(noise_file((120, 160), seed=91))


@pytest.mark.parametrize("cleanup", ["none", "auto"])
def test_the_alpha_is_at_least_128_exactly_inside_the_mask(client, image, cleanup):
    hard = client.segment(image, points=(80, 60), cleanup=cleanup).best

    soft = client.soft_mask(image, points=(80, 60), cleanup=cleanup)

    assert (soft.alpha.shape, soft.alpha.dtype) == ((120, 160), np.uint8)
    assert np.array_equal(soft.alpha >= 128, hard.pixels)
    assert (soft.area, soft.box, soft.mask_id) == (hard.area, hard.box, hard.mask_id)
    assert soft.score == pytest.approx(hard.score, abs=1e-5)
    assert not soft.alpha.flags.writeable


def test_a_prompt_may_be_given_as_one(client, image):
    prompt = Prompt(box=(20, 10, 140, 110))

    one, other = client.soft_mask(image, prompt), client.soft_mask(image.image_id, box=(20, 10, 140, 110))

    assert np.array_equal(one.alpha, other.alpha)


def test_a_prompt_outside_the_image_is_refused(client, image):
    with pytest.raises(PromptRefused):
        client.soft_mask(image, points=(1000, 60))


@pytest.mark.parametrize(
    "changes", [{"x-alpha-box": "9,9,15"}, {"x-alpha-box": "9,9,161,14"}, {"x-mask-area": "many"}, {"x-mask-id": None}]
)
def test_an_answer_without_a_soft_mask_is_no_answer_of_the_service(changes):
    headers = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}

    with pytest.raises(UnexpectedAnswer, match="soft mask"):
        read_soft_mask(Answer(200, headers, b"", 0.1))


@pytest.mark.parametrize("png", [b"", b"no png", noise_file((5, 6), 1), noise_file((50, 60), 1)])
def test_bytes_that_are_no_alpha_are_no_answer_of_the_service(png):
    mask = read_soft_mask(Answer(200, HEADERS, png, 0.1))

    with pytest.raises(UnexpectedAnswer, match="soft mask"):
        _ = mask.alpha
