"""All formats of /segment describe the same mask, and the numbers in the answer match the mask."""

import base64

import numpy as np
import pytest
from pycocotools import mask as coco
from support.answered_masks import box_of, filled, full_mask, grey_image, logits_of, png_mask
from support.noise_images import noise_file
from support.service_client import embed, point, segment

SIZE = (48, 64)


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, noise_file(SIZE, seed=10))


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (480, 640), (48, 64)])
def test_every_format_is_the_same_mask(client, size):
    image_hash = embed(client, noise_file(size, seed=11))
    prompt = point(size[1] / 2, size[0] / 2)

    rle, png, polygon = (
        segment(client, image_hash, prompt, format=name, multimask=4)[0] for name in ("rle", "png", "polygon")
    )

    for masks in zip(rle, png, polygon, strict=True):
        first, *others = (full_mask(mask, size) for mask in masks)
        assert all(np.array_equal(first, other) for other in others)
        assert len({mask["mask_id"] for mask in masks}) == 1


def test_rle_equals_that_of_pycocotools_for_the_full_mask(client, image_hash):
    rle, png = (segment(client, image_hash, point(20, 20), format=name, multimask=4)[0] for name in ("rle", "png"))

    for compressed, pixels in zip(rle, png, strict=True):
        expected = coco.encode(np.asfortranarray(full_mask(pixels, SIZE), np.uint8))
        assert compressed["rle"] == {"size": list(SIZE), "counts": expected["counts"].decode()}


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (480, 640)])
def test_area_and_box_are_those_of_the_mask(client, size):
    image_hash = embed(client, noise_file(size, seed=12))

    masks = segment(client, image_hash, point(0, 0), point(size[1], size[0]), multimask=4)

    for mask in (mask for of_prompt in masks for mask in of_prompt):
        full = full_mask(mask, size)
        assert mask["area"] == full.sum()
        assert mask["box"] == box_of(full)


def test_a_cropped_png_is_the_part_inside_the_box(client, image_hash):
    whole, cropped = (
        segment(client, image_hash, point(20, 20), format="png", crop=crop, multimask=4)[0] for crop in (False, True)
    )

    for full, part in zip(whole, cropped, strict=True):
        x0, y0, x1, y1 = part["box"]
        expected = full_mask(full, SIZE)[y0:y1, x0:x1] if part["area"] else np.zeros((1, 1), bool)
        assert np.array_equal(png_mask(base64.b64decode(part["png"])), expected)


@pytest.mark.parametrize("cleanup", ["none", "auto"])
def test_alpha_is_at_least_128_exactly_inside_the_mask(client, image_hash, cleanup):
    asked = {"cleanup": cleanup, "multimask": 4}
    hard = segment(client, image_hash, point(20, 20), format="rle", **asked)[0]
    whole = segment(client, image_hash, point(20, 20), format="alpha", **asked)[0]
    cropped = segment(client, image_hash, point(20, 20), format="alpha", crop=True, **asked)[0]

    for mask, full, part in zip(hard, whole, cropped, strict=True):
        alpha = grey_image(base64.b64decode(full["alpha"]))
        assert np.array_equal(alpha >= 128, full_mask(mask, SIZE))
        assert full["alpha_box"] == part["alpha_box"] == box_of(alpha > 0)
        assert full["mask_id"] == mask["mask_id"]
        x0, y0, x1, y1 = part["alpha_box"]
        expected = alpha[y0:y1, x0:x1] if mask["area"] else np.zeros((1, 1), np.uint8)
        assert np.array_equal(grey_image(base64.b64decode(part["alpha"])), expected)


def test_alpha_comes_as_a_file_too(client, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(20, 20)], "format": "alpha", "crop": True}
    (expected,) = segment(client, image_hash, point(20, 20), format="alpha", crop=True, multimask=1)[0]

    response = client.post("/segment", json={**body, "multimask": 1}, headers={"Accept": "image/png"})

    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-alpha-box"] == ",".join(map(str, expected["alpha_box"]))
    assert response.content == base64.b64decode(expected["alpha"])


def test_a_tolerance_gives_fewer_corners_about_the_same_mask(client):
    size = (480, 640)
    image_hash = embed(client, noise_file(size, seed=13))
    (exact,) = segment(client, image_hash, point(320, 240), format="polygon", multimask=1)[0]

    (rough,) = segment(client, image_hash, point(320, 240), format="polygon", multimask=1, tolerance_pixels=2)[0]

    assert 0 < corners(rough) < corners(exact)
    assert rough["area"] == exact["area"]  # the area of the mask does not depend on the tolerance


def test_holes_lie_inside_their_part(client):
    size = (60, 90)
    image_hash = embed(client, noise_file(size, seed=13))

    masks = segment(client, image_hash, point(30, 30, label=0), format="polygon", multimask=4)

    parts = [part for of_prompt in masks for mask in of_prompt for part in mask["polygon"]]
    assert any(part["holes"] for part in parts)
    for part in parts:
        exterior = filled([{"exterior": part["exterior"], "holes": []}], size)
        assert all(exterior[filled([{"exterior": hole, "holes": []}], size)].all() for hole in part["holes"])


def test_logits_are_those_of_the_mask(client, image_hash):
    (mask,) = segment(client, image_hash, point(20, 20), format="logits", multimask=1)[0]

    logits = logits_of(mask)

    assert np.isfinite(logits).all()
    is_wide = logits.max() > 0
    assert (mask["area"] > 0) == is_wide


def test_format_none_returns_numbers_without_masks(client, image_hash):
    (bare,), (full,) = (
        segment(client, image_hash, point(20, 20), format=name, multimask=1)[0] for name in ("none", "rle")
    )

    assert set(bare) == {"score", "stability", "predicted_iou", "area", "box", "mask_id"}
    assert bare == {key: value for key, value in full.items() if key != "rle"}


def test_the_answer_names_image_and_model(client, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(1, 1)]}

    response = client.post("/segment", json=body)

    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    answer = response.json()
    members = {"image_hash", "image_id", "width", "height", "region", "orientation", "model", "results"}
    assert set(answer) == members
    assert (answer["image_hash"], answer["width"], answer["height"]) == (image_hash, SIZE[1], SIZE[0])
    assert answer["model"] == client.get("/models").json()["models"][0]["name"] == "random"


def test_the_same_request_has_the_same_answer(client, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(7, 9), {"box": [1, 2, 30, 40]}], "format": "logits"}

    first, second = (client.post("/segment", json=body) for _ in range(2))

    assert first.content == second.content


def corners(mask: dict) -> int:
    """Return the number of corners of all rings of a mask."""
    return sum(len(ring) for part in mask["polygon"] for ring in (part["exterior"], *part["holes"]))
