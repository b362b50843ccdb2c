"""The answer of /segment for each Accept header."""

import pytest
from support.answered_masks import box_of, full_mask, png_mask
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, point, segment

from service.errors import NotAcceptable

SIZE = (40, 70)


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, noise_file(SIZE, seed=30))


def ask(client, image_hash, accept, *prompts, **options):
    """Return the response to /segment with this Accept header."""
    body = {"image_hash": image_hash, "prompts": prompts or [point(20, 20)], **options}
    return client.post("/segment", json=body, headers={"Accept": accept})


@pytest.mark.parametrize("crop", [False, True])
def test_a_png_is_the_best_mask_with_its_numbers_as_headers(client, image_hash, crop):
    best = segment(client, image_hash, point(20, 20), multimask=4)[0][0]

    response = ask(client, image_hash, "image/png", multimask=4, crop=crop)

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["vary"] == "Accept"
    mask = png_mask(response.content)
    full = full_mask(best, SIZE)
    x0, y0, x1, y1 = box_of(full)
    assert (mask == (full[y0:y1, x0:x1] if crop else full)).all()
    assert response.headers["x-mask-id"] == best["mask_id"]
    assert float(response.headers["x-mask-score"]) == pytest.approx(best["score"], abs=1e-6)
    assert int(response.headers["x-mask-area"]) == full.sum()
    assert response.headers["x-mask-box"] == ",".join(map(str, best["box"]))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("", "application/json"),
        ("image/*", "image/png"),
        ("image/png, application/json", "application/json"),
        ("image/png, application/json;q=0.9", "image/png"),
        ("image/png;q=0.1, */*;q=0.5", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("text/html, IMAGE/PNG", "image/png"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_the_preferred_representation_is_answered(client, image_hash, accept, kind):
    response = ask(client, image_hash, accept)

    assert response.status_code == 200
    assert response.headers["content-type"] == kind


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "application/json;q=0", "application/json;q=x", "png"])
def test_a_representation_that_does_not_exist_is_not_acceptable(client, image_hash, accept):
    assert_problem(ask(client, image_hash, accept), NotAcceptable)


def test_several_prompts_have_no_png(client, image_hash):
    response = ask(client, image_hash, "image/png", point(1, 1), point(2, 2))

    assert "single prompt" in assert_problem(response, NotAcceptable)["detail"]


def test_several_prompts_are_answered_as_json_if_the_client_also_accepts_it(client, image_hash):
    response = ask(client, image_hash, "image/png, application/json;q=0.5", point(1, 1), point(2, 2))

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"


def test_several_accept_headers_count_as_one(client, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(1, 1)]}

    response = client.post("/segment", json=body, headers=[("Accept", "text/html"), ("Accept", "image/png")])

    assert response.headers["content-type"] == "image/png"
