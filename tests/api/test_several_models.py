"""Several models in one process: chosen by name, with embeddings of their own, and deleted together."""

import base64
from pathlib import Path

import numpy as np
import pytest
from support.everything_requests import ROUTE, find_all
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.replica_clients import replicas_of_roles, two_replicas
from support.service_client import assert_problem, open_client, point
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound, InvalidRequest, ModelNotFound

from .conftest import LONG_REDIS_TIMEOUTS

LITE, RANDOM = "edgesam-lite", "random"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def both(artifact: Path):
    """A process that serves the bundled model, which is the default, and one with random weights."""
    with ServiceProcess({"EDGESAM_MODELS": f"{LITE}, {artifact}"}) as service:
        yield service


@pytest.fixture(scope="module")
def client(both: ServiceProcess):
    with open_client(both.url) as client:
        yield client


def upload(client, data, model=None, **options):
    """Embed an image by a model, and return the answer."""
    response = client.post("/embed", params={} if model is None else {"model": model}, content=data, **options)
    assert response.status_code == 200, response.text
    return response.json()


def clicked(client, image_id, model=None):
    """Return the response of a click, with logits."""
    body = {"image_hash": image_id, "prompts": [point(40, 30)], "format": "logits", "multimask": 1}
    return client.post("/segment", json=body | ({} if model is None else {"model": model}))


def logits_of(response):
    assert response.status_code == 200, response.text
    text = response.json()["results"][0]["masks"][0]["logits"]
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)


def alone(artifact, data):
    """Return the logits of a click by a process that serves this model alone."""
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as service, open_client(service.url) as client:
        return logits_of(clicked(client, upload(client, data)["image_id"]))


def test_each_model_embeds_and_segments_as_it_does_alone(client, artifact, next_seed):
    data = noise_file((90, 120), next_seed)

    embedded = {name: upload(client, data, name) for name in (LITE, RANDOM)}
    answers = {name: clicked(client, embedded[name]["image_id"], name) for name in (LITE, RANDOM)}

    assert embedded[LITE]["image_id"] == embedded[RANDOM]["image_id"]
    assert [embedded[name]["model"] for name in (LITE, RANDOM)] == [LITE, RANDOM]
    assert [answers[name].json()["model"] for name in (LITE, RANDOM)] == [LITE, RANDOM]
    np.testing.assert_array_equal(logits_of(answers[RANDOM]), alone(artifact, data))
    assert not np.array_equal(logits_of(answers[RANDOM]), logits_of(answers[LITE]))


def test_the_first_model_answers_requests_that_name_none(client, next_seed):
    embedded = upload(client, noise_file((90, 120), next_seed))
    default, named = clicked(client, embedded["image_id"]), clicked(client, embedded["image_id"], LITE)

    assert embedded["model"] == default.json()["model"] == LITE
    np.testing.assert_array_equal(logits_of(default), logits_of(named))
    assert [model["name"] for model in client.get("/models").json()["models"]] == [LITE, RANDOM]
    ready = client.get("/readyz").json()
    assert (ready["model"], ready["models"]) == (LITE, [LITE, RANDOM])


def test_an_image_of_one_model_is_not_found_for_another_and_the_answer_names_the_model(client, next_seed):
    image_id = upload(client, noise_file((90, 120), next_seed), RANDOM)["image_id"]

    problem = assert_problem(clicked(client, image_id), EmbeddingNotFound)

    assert f"/embed?model={LITE}" in problem["detail"]
    assert client.head(f"/embed/{image_id}").status_code == 404
    assert client.get(f"/embed/{image_id}").status_code == 404
    assert client.head(f"/embed/{image_id}", params={"model": RANDOM}).headers["x-cache"] == "memory"


def test_the_download_is_of_the_named_model(client, next_seed):
    image_id = upload(client, noise_file((90, 120), next_seed), RANDOM)["image_id"]

    fingerprints = {model["name"]: model["fingerprint"] for model in client.get("/models").json()["models"]}
    download = client.get(f"/embed/{image_id}", params={"model": RANDOM})

    assert download.headers["x-fingerprint"] == fingerprints[RANDOM] != fingerprints[LITE]


def test_json_and_forms_name_the_model_and_must_not_contradict_the_query(client, next_seed):
    data = noise_file((90, 120), next_seed)
    document = {"image": base64.b64encode(data).decode(), "model": RANDOM}

    by_json = client.post("/embed", json=document)
    by_form = client.post("/embed", files={"image": data}, data={"model": RANDOM})
    contradicting = client.post("/embed", params={"model": LITE}, json=document)

    assert by_json.json()["model"] == by_form.json()["model"] == RANDOM
    assert by_form.json()["cached"] == "memory"
    assert_problem(contradicting, InvalidRequest)


@pytest.mark.parametrize("name", ["mobile-sam", "../edgesam-lite", "", "EDGESAM-LITE"])
def test_an_unknown_name_is_a_problem_that_lists_the_models(client, next_seed, name):
    data = noise_file((90, 120), next_seed)
    asked = {"image_hash": "0" * 64, "prompts": [point(1, 1)], "model": name}

    responses = [
        client.post("/embed", params={"model": name}, content=data),
        client.post("/embed", json={"image": base64.b64encode(data).decode(), "model": name}),
        client.post("/segment", json=asked),
        client.get(f"/embed/{'0' * 64}", params={"model": name}),
    ]

    for response in responses:
        assert assert_problem(response, ModelNotFound)["models"] == [LITE, RANDOM]
    too_long = "a" * 65
    assert_problem(client.post("/embed", params={"model": too_long}, content=data), InvalidRequest)
    assert_problem(client.post("/segment", json=asked | {"model": too_long}), InvalidRequest)


def test_a_deletion_reaches_all_models(client, next_seed):
    data = noise_file((90, 120), next_seed)
    for name in (LITE, RANDOM):
        image_id = upload(client, data, name)["image_id"]

    assert client.delete(f"/embed/{image_id}").status_code == 204

    assert [clicked(client, image_id, name).status_code for name in (LITE, RANDOM)] == [404, 404]
    assert client.delete(f"/embed/{image_id}").status_code == 404
    assert upload(client, data, RANDOM)["cached"] is None


def test_the_memory_and_the_log_tell_the_models_apart(both, client, next_seed):
    image_id = upload(client, noise_file((90, 120), next_seed), RANDOM)["image_id"]
    clicked(client, image_id, RANDOM)

    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    lines = {line["model"]: line for line in both.log if line["event"] == "model"}

    for name in (LITE, RANDOM):
        assert models[name]["artifact_bytes"] > 10 << 20
        assert models[name]["memory_bytes"] > models[name]["artifact_bytes"] // 2
        assert models[name]["load_s"] > 0
        assert lines[name]["memory_bytes"] == models[name]["memory_bytes"]
    wait_until(
        lambda: {line.get("model") for line in both.log if line.get("route") == "/segment"} >= {RANDOM},
        timeout_s=WAIT_S,
    )
    info = [line for line in client.get("/metrics").text.splitlines() if line.startswith("edgesam_model_info{")]
    assert [f'model="{name}"' in line for name, line in zip((LITE, RANDOM), info, strict=True)] == [True, True]


def test_replicas_share_the_images_of_both_models(artifact, redis_server: RedisServer, next_seed):
    data = noise_file((90, 120), next_seed)
    settings = {"EDGESAM_MODELS": f"{LITE},{artifact}", "EDGESAM_REDIS_URL": redis_server.url, **LONG_REDIS_TIMEOUTS}
    with replicas_of_roles(settings) as (embed_client, segment_client):
        for name in (LITE, RANDOM):
            image_id = upload(embed_client, data, name)["image_id"]
            assert logits_of(clicked(segment_client, image_id, name)).any()

        assert embed_client.delete(f"/embed/{image_id}").status_code == 204

        for name in (LITE, RANDOM):
            wait_until(lambda: clicked(segment_client, image_id, name).status_code == 404, timeout_s=WAIT_S)  # noqa: B023
            assert upload(embed_client, data, name)["cached"] is None


def test_a_deletion_reaches_the_models_that_only_other_replicas_serve(artifact, redis_server, next_seed):
    data = noise_file((90, 120), next_seed)
    shared = {"EDGESAM_REDIS_URL": redis_server.url, **LONG_REDIS_TIMEOUTS}
    settings = ({**shared, "EDGESAM_MODELS": LITE}, {**shared, "EDGESAM_MODEL_DIR": str(artifact)})
    with two_replicas(*settings) as (lite, random):
        image_id = upload(random, data)["image_id"]
        variant = random.post("/embed?levels=full", content=data).json()
        assert clicked(random, image_id).status_code == 200

        assert lite.delete(f"/embed/{image_id}").status_code == 204

        for each in (image_id, variant["image_id"]):
            wait_until(lambda: clicked(random, each).status_code == 404, timeout_s=WAIT_S)  # noqa: B023
        assert upload(random, data)["cached"] is None


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ("mobile-sam", "there is no model 'mobile-sam'"),
        (f"{LITE},{LITE}", "the model 'edgesam-lite' is named twice"),
        ("./nowhere", "no readable manifest"),
        (f"{LITE},../x", "no readable manifest"),
    ],
)
def test_models_that_cannot_be_served_together_are_errors_of_the_start(models, told):
    process = ServiceProcess({"EDGESAM_MODELS": models})

    with pytest.raises(AssertionError, match="ended before"), process:
        pass

    assert process.process.returncode == 2
    assert told in str(process.log)


def test_models_are_found_in_the_folder_of_models_before_the_bundled_ones(artifact, tmp_path):
    (tmp_path / RANDOM).symlink_to(artifact)
    settings = {"EDGESAM_MODELS": f"{RANDOM},{LITE}", "EDGESAM_MODELS_DIR": str(tmp_path)}

    with ServiceProcess(settings) as service, open_client(service.url) as client:
        assert client.get("/readyz").json()["models"] == [RANDOM, LITE]


def test_everything_mode_finds_objects_by_the_named_model_with_its_own_defaults(client, next_seed):
    data = noise_file((43, 53), next_seed)
    described = {model["name"]: model["everything"] for model in client.get("/models").json()["models"]}
    answers = {}
    for model in (LITE, RANDOM):
        image_id = upload(client, data, model)["image_id"]
        answers[model] = find_all(client, image_id, model=model, points_per_side=2)
        asked = {"image_hash": image_id, "model": model, "points_per_side": 1}
        shown = client.post(ROUTE, json=asked).json()["parameters"]
        del described[model]["points_per_side"]
        assert {name: described[model][name] for name in described[model] if name in shown}.items() <= shown.items()

    assert find_all(client, image_id, points_per_side=2)["model"] == LITE
    assert {name: answer["model"] for name, answer in answers.items()} == {LITE: LITE, RANDOM: RANDOM}
    assert answers[LITE]["masks"] != answers[RANDOM]["masks"]
