"""`granularity: auto`: a click gets the box that torch gives it, but only on models with the module."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from support.noise_images import noise_file
from support.random_model import random_granularity, random_model
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from model_store.network.anchors import anchor_boxes, decode_boxes
from service.errors import InvalidRequest
from service.sam.frame import Frame
from service.sam.granularity import Proposals, with_box
from service.sam.images import decode_image
from service.sam.prompts import POSITIVE, Prompt
from service.sam.transforms import preprocess

SIZE = (300, 420)
DATA = noise_file(SIZE, seed=90)
CLICKS = [(210.0, 150.0), (60.5, 40.25), (400.0, 290.0), (300.0, 20.0)]
BOX = {"box": [50, 40, 200, 220]}
TWO_POINTS = {"points": [{"x": 200, "y": 150}, {"x": 50, "y": 50, "label": 0}]}


@pytest.fixture(scope="module")
def proposing(proposing_artifact):
    """A client of the real process with the module."""
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(proposing_artifact)}) as service, open_client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def image_hash(proposing) -> str:
    return embed(proposing, DATA)


@pytest.fixture(scope="module")
def proposals() -> Proposals:
    """All boxes that torch finds in the image, not only the best one."""
    model = random_model()
    frame = preprocess(decode_image(DATA, max_pixels=10**6).pixels, PIXEL_MEAN, PIXEL_STD)
    with torch.inference_mode():
        logits, deltas = random_granularity(model)(model.image_encoder.stages(torch.from_numpy(frame)[None]))
    return Proposals(decode_boxes(anchor_boxes(1024), deltas[0], 1024).numpy(), logits[0].sigmoid().numpy())


def results(client, image_hash, *prompts, **options):
    """Return the results of an answer, by default with numbers and without masks."""
    body = {"image_hash": image_hash, "prompts": prompts, "granularity": "auto", "format": "none", **options}
    response = client.post("/segment", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def test_a_click_gets_the_box_that_torch_gives_it(proposing, image_hash, proposals):
    answers = results(proposing, image_hash, *(point(x, y) for x, y in CLICKS))

    for (x, y), answer in zip(CLICKS, answers, strict=True):
        click = Prompt(points=np.array([[x, y]]), labels=np.array([POSITIVE]))
        x0, y0, x1, y1 = answer["granularity_box"]
        assert_allclose([x0, y0, x1, y1], with_box(click, proposals, Frame(SIZE)).box, rtol=0, atol=0.5)
        assert 0 <= x0 < x < x1 <= 420
        assert 0 <= y0 < y < y1 <= 300


def test_the_answer_is_that_of_the_click_with_the_box(proposing, image_hash):
    for x, y in CLICKS:
        (answer,) = results(proposing, image_hash, point(x, y), format="logits")
        (masks,) = segment(proposing, image_hash, {**point(x, y), "box": answer["granularity_box"]}, format="logits")
        (unaided,) = segment(proposing, image_hash, point(x, y), multimask=1)

        assert answer["masks"] == masks
        assert len(masks) == 1, "multimask auto: it means one thing now"
        assert masks[0]["mask_id"] != unaided[0]["mask_id"]


def test_a_click_outside_all_proposals_gets_no_box(proposing, image_hash):
    corner = point(0, 0)  # no box contains a point on the border

    (answer,) = results(proposing, image_hash, corner)
    (plain,) = segment(proposing, image_hash, corner, format="none")

    assert answer == {"masks": plain, "granularity_box": None}
    assert len(plain) == 4


def test_other_prompts_of_the_request_get_no_box(proposing, image_hash):
    mask_id = segment(proposing, image_hash, point(100, 100))[0][0]["mask_id"]
    others = [BOX, TWO_POINTS, point(210, 150, label=0), {**point(210, 150), "mask_id": mask_id}]

    answers = results(proposing, image_hash, point(210, 150), *others, multimask=1)
    plain = segment(proposing, image_hash, point(210, 150), *others, multimask=1, format="none")

    assert answers[0]["granularity_box"] is not None
    assert [answer["granularity_box"] for answer in answers[1:]] == [None] * 4
    assert [answer["masks"] for answer in answers[1:]] == plain[1:]


def test_off_is_the_default_and_answers_no_box(proposing, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(210, 150)], "format": "none"}

    unasked, off = (proposing.post("/segment", json=one) for one in (body, {**body, "granularity": "off"}))

    assert unasked.json() == off.json()
    assert set(off.json()["results"][0]) == {"masks"}


def test_a_png_answer_has_the_box_in_a_header(proposing, image_hash):
    (answer,) = results(proposing, image_hash, point(210, 150))
    headers = {"Accept": "image/png"}
    body = {"image_hash": image_hash, "granularity": "auto"}

    found = proposing.post("/segment", json={**body, "prompts": [point(210, 150)]}, headers=headers)
    none = proposing.post("/segment", json={**body, "prompts": [point(0, 0)]}, headers=headers)

    assert found.headers["x-granularity-box"] == ",".join(map(str, answer["granularity_box"]))
    assert found.headers["x-mask-id"] == answer["masks"][0]["mask_id"]
    assert (none.status_code, none.headers.get("x-granularity-box")) == (200, None)


def test_models_states_whether_granularity_is_available(proposing, client):
    models = [one.get("/models").json()["models"][0] for one in (proposing, client)]

    assert [model["granularity"] for model in models] == [True, False]


def test_a_model_without_the_module_refuses_granularity_with_advice(client):
    image_hash = embed(client, DATA)
    body = {"image_hash": image_hash, "prompts": [point(210, 150)], "granularity": "auto"}

    document = assert_problem(client.post("/segment", json=body), InvalidRequest)

    assert document["errors"][0]["where"] == "/granularity"
    assert "has no granularity module" in document["detail"]
    assert "leave granularity out" in document["detail"].lower()
