"""Reloading models without a restart: new ones are added, changed ones replace others, and failures change nothing."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.noise_images import noise_file
from support.ranked_model import with_ranking
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.api.routes.playground import RUNTIME_FILES
from service.composition import models
from service.errors import (
    EmbeddingNotFound,
    Forbidden,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    ReloadInProgress,
    Unauthorized,
)
from service.inference.backends.runtime import Runtime
from service.manifest import MANIFEST_NAME, ManifestError
from service.mask_rules import Ranking
from service.sam.embedding import embedding_key
from service.settings import BUNDLED_MODEL, Settings

from .conftest import LONG_REDIS_TIMEOUTS

LITE, MINE = "edgesam-lite", "mine"
WAIT_S = 60.0
RELOAD = "/models/reload"
MEMORY = 'edgesam_cache_bytes{tier="memory"}'


def place(source: Path, folder: Path, name: str = MINE) -> Path:
    """Put an artifact under another name into the folder of models, in place of one that is there."""
    target, fresh = folder / name, folder / f".{name}"
    shutil.copytree(source, fresh)
    path = fresh / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    """A process that serves the bundled model, and finds others in the folder `models_dir`."""
    folder = tmp_path_factory.mktemp("reload") / "models"
    folder.mkdir()
    with ServiceProcess({"EDGESAM_MODELS": LITE, "EDGESAM_MODELS_DIR": str(folder)}) as service:
        service.models_dir = folder
        yield service


@pytest.fixture
def models_dir(service: ServiceProcess):
    """The folder in which `service` looks models up, empty before and after the test."""
    yield service.models_dir
    shutil.rmtree(service.models_dir)
    service.models_dir.mkdir()


@pytest.fixture
def client(service: ServiceProcess, models_dir: Path):
    """A client of `service`, which serves the bundled model alone before and after the test."""
    with open_client(service.url) as client:
        yield client
        reload(client)


def reload(client: httpx.Client, *names: str) -> dict[str, str]:
    """Reload the models, and return what happened to each. Without names they are those of the settings."""
    response = client.post(RELOAD, json={"models": names}) if names else client.post(RELOAD)
    assert response.status_code == 200, response.text
    return {model["name"]: model["change"] for model in response.json()["models"]}


def served(client: httpx.Client) -> list[str]:
    return [model["name"] for model in client.get("/models").json()["models"]]


def embed_mine(client: httpx.Client, data: bytes) -> str:
    """Embed an image by the model `mine`, and return its hash."""
    response = client.post("/embed", params={"model": MINE}, content=data)
    assert response.status_code == 200, response.text
    return str(response.json()["image_hash"])


def sample(client: httpx.Client, start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(start)))


def test_a_model_is_added_and_removed_while_the_others_stay(client, models_dir, artifact, next_seed):
    place(artifact, models_dir)
    data = noise_file((90, 120), next_seed)
    before = sample(client, MEMORY)
    kept = embed(client, data)
    one = sample(client, MEMORY) - before

    assert reload(client, LITE, MINE) == {LITE: "kept", MINE: "added"}
    assert served(client) == client.get("/readyz").json()["models"] == [LITE, MINE]
    assert segment(client, embed_mine(client, data), point(40, 30), model=MINE)
    assert sample(client, MEMORY) == before + 2 * one

    assert reload(client) == {LITE: "kept", MINE: "removed"}
    assert served(client) == [LITE]
    assert sample(client, MEMORY) == before + one
    assert_problem(client.post("/embed", params={"model": MINE}, content=data), ModelNotFound)
    assert client.head(f"/embed/{kept}").headers["x-cache"] == "memory"
    assert client.get("/metrics").text.count("edgesam_model_info{") == 1


def test_the_first_name_becomes_the_default(client, models_dir, artifact, next_seed):
    place(artifact, models_dir)

    assert reload(client, MINE) == {MINE: "added", LITE: "removed"}

    image_hash = embed(client, noise_file((90, 120), next_seed))
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [point(40, 30)]})
    assert response.json()["model"] == client.get("/readyz").json()["model"] == MINE


def test_an_embedding_is_not_used_after_its_model_was_replaced(client, models_dir, artifact, next_seed):
    place(artifact, models_dir)
    reload(client, LITE, MINE)
    data = noise_file((90, 120), next_seed)
    image_hash = embed_mine(client, data)
    before = client.get("/models").json()["models"][1]

    place(BUNDLED_MODEL, models_dir)
    assert reload(client, MINE) == {MINE: "replaced", LITE: "removed"}

    after = client.get("/models").json()["models"][0]
    assert (after["name"], after["fingerprint"] != before["fingerprint"]) == (MINE, True)
    body = {"image_hash": image_hash, "prompts": [point(40, 30)]}
    assert_problem(client.post("/segment", json=body), EmbeddingNotFound)
    assert client.post("/embed", content=data).json()["cached"] is None
    assert client.post("/segment", json=body).status_code == 200


def test_a_model_with_the_same_encoder_and_another_ranking_keeps_no_state(client, models_dir, artifact, next_seed):
    place(artifact, models_dir)
    reload(client, MINE)
    image_hash = embed(client, noise_file((90, 120), next_seed))
    before = segment(client, image_hash, point(40, 30), multimask=4)[0]

    ranked = with_ranking(models_dir / MINE, models_dir / "ranked", Ranking(bias=(0, 5, 0, 0), stability=0))
    place(ranked, models_dir)
    assert reload(client, MINE) == {MINE: "replaced"}

    assert sample(client, MEMORY) == 0
    again = client.post("/embed", content=noise_file((90, 120), next_seed)).json()
    assert again["cached"] is None  # without Redis
    after = segment(client, image_hash, point(40, 30), multimask=4)[0]
    assert [mask["score"] for mask in after] != [mask["score"] for mask in before]
    assert reload(client, MINE) == {MINE: "kept"}


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx"])
def test_a_damaged_file_changes_nothing(client, models_dir, artifact, next_seed, file):
    image_hash = embed(client, noise_file((90, 120), next_seed))
    folder = place(artifact, models_dir)
    (folder / file).write_bytes((folder / file).read_bytes()[:-1])

    problem = assert_problem(client.post(RELOAD, json={"models": [LITE, MINE]}), ModelLoadFailed)

    assert file in problem["detail"]
    assert served(client) == [LITE]
    assert segment(client, image_hash, point(40, 30))


def test_a_graph_that_onnx_runtime_refuses_changes_nothing(client, models_dir, artifact):
    folder = place(artifact, models_dir)
    (folder / "encoder.onnx").write_bytes(b"no graph")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["graphs"]["encoder"] |= {"sha256": hashlib.sha256(b"no graph").hexdigest(), "size_bytes": 8}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))

    problem = assert_problem(client.post(RELOAD, json={"models": [MINE]}), ModelLoadFailed)

    assert "Nothing was changed" in problem["detail"]
    assert served(client) == [LITE]


@pytest.mark.parametrize("file", ["encoder.onnx", MANIFEST_NAME])
def test_a_pipe_in_place_of_a_file_does_not_hold_reloads_up(client, models_dir, artifact, file):
    folder = place(artifact, models_dir)
    (folder / file).unlink()
    os.mkfifo(folder / file)

    response = client.post(RELOAD, json={"models": [LITE, MINE]})

    assert response.status_code in {404, 422}, response.text  # a folder without a manifest file is no model
    assert reload(client) == {LITE: "kept"}


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx", MANIFEST_NAME])
def test_an_artifact_that_changes_while_it_is_loaded_is_refused(tmp_path, artifact, file, monkeypatch):
    folder = place(artifact, tmp_path)

    class LoadedBeforeTheChange(Runtime):
        def __init__(self, directory, **options):
            super().__init__(directory, **options)
            content = (directory / file).read_bytes()
            (directory / file).unlink()
            (directory / file).write_bytes(content)

    monkeypatch.setattr(models, "Runtime", LoadedBeforeTheChange)

    with pytest.raises(ManifestError, match="was changed while it was loaded"):
        models.load_model(Settings(), folder)


@pytest.mark.parametrize(
    "change", [{"mean": [float("nan")] * 3}, {"std": [0, 1, 1]}, {"measured": {"a": float("inf")}}]
)
def test_a_manifest_with_numbers_that_mean_nothing_changes_nothing(client, models_dir, artifact, change):
    path = place(artifact, models_dir) / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert_problem(client.post(RELOAD, json={"models": [MINE]}), ModelLoadFailed)
    assert served(client) == [LITE]


def test_two_models_with_one_encoder_are_refused(client, models_dir):
    place(BUNDLED_MODEL, models_dir)

    problem = assert_problem(client.post(RELOAD, json={"models": [LITE, MINE]}), ModelLoadFailed)

    assert "the same image encoder" in problem["detail"]


def test_requests_name_models_and_never_places(client, models_dir, artifact):
    place(artifact, models_dir)
    place(artifact, models_dir.parent, "beside")

    for name in ("../beside", "/etc", f"./{MINE}", f".{MINE}", "beside", "MINE", "mine/../mine", "\0"):
        problem = assert_problem(client.post(RELOAD, json={"models": [name]}), ModelNotFound)
        assert f"{LITE}, {MINE}" in problem["detail"]
    for body in (
        {"models": []},
        {"models": [LITE, LITE]},
        {"models": LITE},
        {"models": ["a" * 65]},
        {"folder": str(models_dir / MINE)},
        [],
    ):
        assert_problem(client.post(RELOAD, json=body), InvalidRequest)
    assert served(client) == [LITE]


def test_one_reload_runs_at_a_time_beside_requests(client, service, models_dir, artifact, next_seed):
    place(artifact, models_dir)
    image_hash = embed(client, noise_file((90, 120), next_seed))
    refused = answered = 0

    def load() -> httpx.Response:
        with open_client(service.url) as other:
            while True:  # one of the short requests below may be first
                response = other.post(RELOAD, json={"models": [LITE, MINE]})
                if response.status_code != ReloadInProgress.status:
                    return response

    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(load)
        while not running.done():
            response = client.post(RELOAD, json={"models": ["absent"]})
            if response.status_code == ModelNotFound.status:
                continue
            assert_problem(response, ReloadInProgress)
            refused += 1
            assert segment(client, image_hash, point(40, 30))
            answered += not running.done()
        assert running.result().status_code == 200, running.result().text
    assert refused
    assert answered


def test_only_admin_keys_may_reload(tmp_path, artifact):
    keys = {role: f"a-key-of-the-role-{role}" for role in ("embed", "segment", "admin")}
    entries = [
        {"name": role, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": [role]}
        for role, key in keys.items()
    ]
    (tmp_path / "keys.json").write_text(json.dumps(entries))
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_API_KEYS_FILE": str(tmp_path / "keys.json")}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        assert_problem(client.post(RELOAD), Unauthorized)
        for role in ("embed", "segment"):
            assert_problem(client.post(RELOAD, headers={"X-API-Key": keys[role]}), Forbidden)
        answer = client.post(RELOAD, headers={"X-API-Key": keys["admin"]})
        assert [model["change"] for model in answer.json()["models"]] == ["kept"]


def test_the_files_of_the_browser_follow_a_reload(models_dir, artifact, tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME_FILES:
        (runtime / name).write_text(name)
    place(artifact, models_dir)
    settings = {
        "EDGESAM_MODELS": LITE,
        "EDGESAM_MODELS_DIR": str(models_dir),
        "EDGESAM_BROWSER_RUNTIME_DIR": str(runtime),
    }
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        before = client.get("/models").json()["models"][0]["files"]["prepare"]["sha256"]
        reload(client, MINE)
        after = client.get("/models").json()["models"][0]["files"]["prepare"]["sha256"]

        content = client.get(f"/models/files/{after}")
        assert hashlib.sha256(content.content).hexdigest() == after != before
        assert client.get(f"/models/files/{before}").status_code == 404


def test_a_deletion_reaches_the_embeddings_of_a_removed_model(models_dir, artifact, redis_server, next_seed):
    place(artifact, models_dir)
    data = noise_file((90, 120), next_seed)
    settings = {"EDGESAM_MODELS": f"{LITE},{MINE}", "EDGESAM_MODELS_DIR": str(models_dir)}
    settings |= {"EDGESAM_REDIS_URL": redis_server.url, **LONG_REDIS_TIMEOUTS}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image_hash = embed_mine(client, data)
        key = embedding_key(image_hash, client.get("/models").json()["models"][1]["fingerprint"], "float16")
        assert redis_server.ask("EXISTS", key) == 1
        reload(client, LITE)

        assert client.delete(f"/embed/{image_hash}").status_code == 204

        assert redis_server.ask("EXISTS", key) == 0
        reload(client, LITE, MINE)
        body = {"image_hash": image_hash, "prompts": [point(40, 30)], "model": MINE}
        assert_problem(client.post("/segment", json=body), EmbeddingNotFound)
