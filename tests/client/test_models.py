"""Both clients and the command line against a service with two models."""

import numpy as np
import pytest
from PIL import Image
from support.noise_images import noise_file
from support.service_client import embed, open_client, segment
from typer.testing import CliRunner

from service.client import Client, ModelNotFound
from service.client.command import app
from service.client.rle import decode_rle

CLICK = (40, 30)
PROMPT = {"points": [{"x": 40, "y": 30, "label": 1}]}


@pytest.fixture(scope="module")
def names(two_models_url):
    with Client(two_models_url) as client:
        return [model.name for model in client.models()]


@pytest.fixture
def data(next_seed):
    return noise_file((60, 80), next_seed)


def expected_pixels(url, data, name):
    """The best mask that /segment answers for the model, (H, W) bool."""
    with open_client(url) as raw:
        image_hash = raw.post(f"/embed?model={name}", content=data).json()["image_hash"]
        (masks,) = segment(raw, image_hash, PROMPT, model=name)
    return decode_rle(masks[0]["rle"]["counts"], *masks[0]["rle"]["size"])


def test_a_client_answers_with_the_model_of_its_own_or_of_a_call(connect, two_models_url, names, data):
    default, other = names
    client, other_client = connect(two_models_url), connect(two_models_url, model=other)

    first = client.segment(client.embed(data), points=CLICK)
    second = client.segment(client.embed(data, model=other), points=CLICK)
    third = other_client.segment(other_client.embed(data), points=CLICK)
    fourth = other_client.segment(other_client.embed(data), points=CLICK, model=default)

    assert [answer.model for answer in (first, second, third, fourth)] == [default, other, other, default]
    for answer in (first, second, third, fourth):
        assert np.array_equal(answer.best.pixels, expected_pixels(two_models_url, data, answer.model))
    assert not np.array_equal(first.best.pixels, second.best.pixels)


def test_another_model_embeds_an_image_first_and_not_one_of_which_only_the_id_is_known(
    connect, two_models_url, names, data
):
    default, other = names
    client = connect(two_models_url)
    image = client.embed(data)

    before = client.contains(image.image_id, model=other)
    answer = client.segment(image, points=CLICK, model=other)
    after = client.contains(image.image_id, model=other)
    is_deleted = client.forget(image.image_id)

    assert (before, answer.model, after, is_deleted) == (False, other, True, True)
    assert not client.contains(image.image_id, model=default)
    assert not client.contains(image.image_id, model=other)


def test_a_model_that_is_not_served_is_an_error_that_lists_the_models(connect, two_models_url, names, data):
    client = connect(two_models_url, model="mobile-sam?")

    for call in (lambda: client.embed(data), lambda: client.segment("0" * 64, points=CLICK)):
        with pytest.raises(ModelNotFound) as caught:
            call()
        assert caught.value.status == 404
        assert all(name in caught.value.detail for name in names)


@pytest.fixture
def run(two_models_url, monkeypatch):
    monkeypatch.setenv("EDGESAM_URL", two_models_url)
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_command_segments_with_the_model_and_warns_of_it_alone(run, two_models_url, names, data, tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    photo.write_bytes(data)
    order = (photo, "--point", "40,30", "--mask", mask)

    default = run(*order)
    other = run(*order, "--model", names[1])

    with Client(two_models_url, model=names[1]) as client, Image.open(mask) as written:
        best = client.segment(client.embed(data), points=CLICK, cleanup="auto").best
        assert np.array_equal(np.asarray(written) == 255, best.pixels)
    assert (default.exit_code, other.exit_code) == (0, 0), other.output
    assert "not trained" not in default.stderr
    assert f"{names[1]}, which is not trained" in other.stderr


def test_the_command_embeds_a_folder_for_the_model(run, two_models_url, names, data, tmp_path):
    (tmp_path / "photo.png").write_bytes(data)

    result = run("--folder", tmp_path, "--model", names[1])

    assert result.exit_code == 0, result.output
    assert "1 embedded, 0 known" in result.output
    with Client(two_models_url) as client, open_client(two_models_url) as raw:
        assert client.contains(embed(raw, data), model=names[1])
        assert client.models()[1].name == names[1]


def test_the_command_lists_the_models_when_there_is_no_such_one(run, names, data, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(data)

    for order in ((photo,), ("--folder", tmp_path)):
        result = run(*order, "--model", "none")
        assert result.exit_code == 1
        assert all(name in result.output for name in names)
