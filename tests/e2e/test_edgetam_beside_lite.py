"""EdgeTAM beside the bundled model in one process: own embeddings, common deletions, and a reload that adds it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, open_client, point
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound, ModelNotFound
from service.settings import BUNDLED_MODEL

pytestmark = pytest.mark.slow

LITE, EDGETAM = "edgesam-lite", "edgetam"
SIZE = (150, 250)
PROMPTS = [point(120, 90), {"box": [40, 30, 190, 120]}]


@pytest.fixture(scope="module")
def client(edgetam_artifact: Path) -> Iterator[httpx.Client]:
    """A client of a process with both models. The bundled one answers requests that name none."""
    with (
        ServiceProcess({"EDGESAM_MODELS": f"{BUNDLED_MODEL},{edgetam_artifact}"}) as service,
        open_client(service.url) as client,
    ):
        yield client


def upload(client: httpx.Client, data: bytes, model: str) -> dict:
    response = client.post("/embed", params={"model": model}, content=data)
    assert response.status_code == 200, response.text
    return response.json()


def asked(client: httpx.Client, image_id: str, model: str) -> httpx.Response:
    body = {"image_hash": image_id, "model": model, "prompts": PROMPTS, "format": "logits"}
    return client.post("/segment", json=body)


def masks_of(response: httpx.Response) -> list[list[dict]]:
    assert response.status_code == 200, response.text
    return [result["masks"] for result in response.json()["results"]]


def test_each_model_answers_with_its_own_embedding_of_an_image(client, edgetam_artifact):
    data = noise_file(SIZE, seed=310)
    embedded = {name: upload(client, data, name) for name in (LITE, EDGETAM)}
    image_id = embedded[LITE]["image_id"]

    answers = {name: asked(client, image_id, name) for name in (LITE, EDGETAM)}

    assert embedded[EDGETAM]["image_id"] == image_id
    assert [embedded[name]["model"] for name in (LITE, EDGETAM)] == [LITE, EDGETAM]
    assert [answers[name].json()["model"] for name in (LITE, EDGETAM)] == [LITE, EDGETAM]
    assert [len(masks) for masks in masks_of(answers[LITE])] == [4, 1]
    assert [len(masks) for masks in masks_of(answers[EDGETAM])] == [3, 1]
    for name, folder in ((LITE, BUNDLED_MODEL), (EDGETAM, edgetam_artifact)):
        with ServiceProcess({"EDGESAM_MODEL_DIR": str(folder)}) as service, open_client(service.url) as alone:
            upload(alone, data, name)
            assert masks_of(asked(alone, image_id, name)) == masks_of(answers[name])


def test_an_image_of_one_model_is_not_found_for_the_other(client):
    image_id = upload(client, noise_file(SIZE, seed=311), EDGETAM)["image_id"]

    problem = assert_problem(asked(client, image_id, LITE), EmbeddingNotFound)

    assert f"/embed?model={LITE}" in problem["detail"]
    assert asked(client, image_id, EDGETAM).status_code == 200


def test_a_mask_of_one_model_is_not_refined_by_the_other(client):
    data = noise_file(SIZE, seed=312)
    for name in (LITE, EDGETAM):
        image_id = upload(client, data, name)["image_id"]
    mask = masks_of(asked(client, image_id, EDGETAM))[1][0]
    prompt = {**point(60, 60), "mask_id": mask["mask_id"]}

    answers = {
        name: client.post("/segment", json={"image_hash": image_id, "model": name, "prompts": [prompt]})
        for name in (LITE, EDGETAM)
    }

    assert [answers[name].status_code for name in (EDGETAM, LITE)] == [200, 404]


def test_a_deletion_removes_the_image_of_both_models(client):
    data = noise_file(SIZE, seed=313)
    for name in (LITE, EDGETAM):
        image_id = upload(client, data, name)["image_id"]

    assert client.delete(f"/embed/{image_id}").status_code == 204

    assert [asked(client, image_id, name).status_code for name in (LITE, EDGETAM)] == [404, 404]
    assert [upload(client, data, name)["cached"] for name in (LITE, EDGETAM)] == [None, None]


def test_a_reload_adds_edgetam_to_a_running_service_and_removes_it(edgetam_artifact, tmp_path):
    data = noise_file(SIZE, seed=314)
    settings = {"EDGESAM_MODELS": LITE, "EDGESAM_MODELS_DIR": str(tmp_path)}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image_id = upload(client, data, LITE)["image_id"]
        before = masks_of(asked(client, image_id, LITE))
        shutil.copytree(edgetam_artifact, tmp_path / EDGETAM)

        added = client.post("/models/reload", json={"models": [LITE, EDGETAM]})
        upload(client, data, EDGETAM)
        masks = masks_of(asked(client, image_id, EDGETAM))

        assert {model["name"]: model["change"] for model in added.json()["models"]} == {LITE: "kept", EDGETAM: "added"}
        assert [len(of_prompt) for of_prompt in masks] == [3, 1]
        assert masks_of(asked(client, image_id, LITE)) == before

        removed = client.post("/models/reload", json={"models": [LITE]})

        assert removed.status_code == 200, removed.text
        assert_problem(asked(client, image_id, EDGETAM), ModelNotFound)
        assert masks_of(asked(client, image_id, LITE)) == before
