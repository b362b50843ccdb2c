"""What /models says of a model in words, and the model card."""

import json

import pytest
from support.service_client import assert_problem, assert_problem_document, open_client
from support.service_process import ServiceProcess

from service.errors import ModelNotFound
from service.settings import BUNDLED_MODEL

KEY = "a key of at least sixteen characters"


@pytest.fixture(scope="module")
def two(two_models_url):
    with open_client(two_models_url) as client:
        yield client


def test_models_say_what_they_are_for_and_whether_commercial_use_is_allowed(two):
    bundled, untrained = two.get("/models").json()["models"]

    assert bundled["summary"].startswith("Small model trained by this project. Better ones are one command away")
    assert bundled["card"] == "models/edgesam-lite/card"
    assert bundled["commercial_use"] is False
    assert untrained["summary"] == "This model is not trained. Its masks mean nothing."
    assert (untrained["card"], untrained["commercial_use"]) == ("", None)


def test_the_card_is_the_text_of_the_artifact(two):
    card = two.get("/models/edgesam-lite/card")

    assert card.status_code == 200
    assert card.headers["content-type"] == "text/plain; charset=utf-8"  # Markdown would be downloaded by some browsers
    assert card.headers["x-content-type-options"] == "nosniff"
    assert card.content == (BUNDLED_MODEL / "README.md").read_bytes()


def test_a_model_without_a_card_or_without_a_model_is_not_found(two):
    assert_problem_document(two.get("/models/random/card"), 404, "not-found")
    assert "edgesam-lite" in assert_problem(two.get("/models/other/card"), ModelNotFound)["detail"]


def test_the_card_needs_no_key_since_a_link_carries_none():
    with ServiceProcess({"EDGESAM_API_KEYS": json.dumps([KEY])}) as service, open_client(service.url) as client:
        assert client.get("/models").status_code == 401
        assert client.get("/models/edgesam-lite/card").status_code == 200
