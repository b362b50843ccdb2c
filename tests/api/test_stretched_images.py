"""A model that stretches images beside one that letterboxes them: what reaches the graphs, and narrow images.

The small graphs show their inputs: a logit is a pixel of the encoder's input plus the mean of the prompt's tokens.
"""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.service_client import assert_problem, embed, open_client, point
from support.service_process import ServiceProcess
from support.small_graphs import write_small_artifact

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from service.errors import UnusableAspectRatio
from service.sam.transforms import preprocess
from service.settings import BUNDLED_MODEL

SIZE = (60, 300)
PIXELS = np.random.default_rng(60).integers(0, 256, (*SIZE, 3), np.uint8)
BOX = [3, 0.6, 6, 1.2]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a service with both models. The first one letterboxes images."""
    small = write_small_artifact(tmp_path_factory.mktemp("small"))
    settings = {"EDGESAM_MODELS": f"{BUNDLED_MODEL},{small}", "EDGESAM_EMBEDDING_DTYPE": "float32"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        yield client


def masks_of(client, image_id, prompt, **options):
    body = {"image_hash": image_id, "model": "small", "prompts": [prompt], "multimask": 4, **options}
    response = client.post("/segment", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"][0]["masks"]


def embedded(client, pixels):
    response = client.post("/embed?model=small", content=png(pixels))
    assert response.status_code == 200, response.text
    return response.json()["image_id"]


def in_frame(x, y):
    return x / SIZE[1] * 1024, y / SIZE[0] * 1024


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (point(3, 0.6), [(3, 0.6), (0, 0)]),
        ({"box": BOX}, [(3, 0.6), (6, 1.2), (0, 0)]),
        ({"box": BOX, **point(3, 0.6)}, [(3, 0.6), (3, 0.6), (6, 1.2), (0, 0)]),
    ],
    ids=["point", "box", "box and point"],
)
def test_each_axis_has_its_own_scale_and_padding_follows_points_and_boxes(client, prompt, tokens):
    masks = masks_of(client, embedded(client, PIXELS), prompt, format="logits")

    found = np.concatenate([np.frombuffer(base64.b64decode(mask["logits"]), "<f2") for mask in masks])
    green = preprocess(PIXELS, PIXEL_MEAN, PIXEL_STD, resize="stretch")[1, :256].reshape(-1)
    mean = np.mean([in_frame(*token) for token in tokens])
    np.testing.assert_allclose(found.astype(np.float32), green + mean, rtol=0, atol=0.01)


def test_a_narrow_image_is_refused_by_one_model_and_segmented_by_the_other(client):
    pixels = np.random.default_rng(1).integers(0, 256, (1, 5000, 3), np.uint8)
    mask = np.zeros((1, 5000), np.bool_)
    mask[:, 1000:3000] = True

    refused = client.post("/embed", content=png(pixels))
    image_id = embedded(client, pixels)
    (best, *_) = masks_of(client, image_id, {"mask": base64.b64encode(png(mask)).decode()}, format="rle")

    assert "2048 times" in assert_problem(refused, UnusableAspectRatio)["detail"]
    assert coco.decode(best["rle"]).shape == (1, 5000)


def test_both_models_take_an_image_of_an_ordinary_shape(client):
    assert embed(client, png(PIXELS)) == embedded(client, PIXELS)


def test_a_side_that_is_too_long_is_refused_with_the_bound(client):
    refused = client.post("/embed?model=small", content=png(np.zeros((1, (1 << 16) + 1), np.uint8)))

    assert "65536 pixels" in assert_problem(refused, UnusableAspectRatio)["detail"]
