"""EDGESAM_EMBEDDING_DTYPE over HTTP: size in Redis, download, and the same answers by every replica."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.everything_requests import find_all
from support.noise_images import noise_file
from support.redis_server import RedisServer
from support.service_client import embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.inference.backends.runtime import Runtime
from service.sam.embedding import ImageEmbedding

SIZE = (60, 90)
DATA = noise_file(SIZE, seed=801)
STORED_BYTES = {"float16": 2 << 20, "float32": 4 << 20, "int8": (1 << 20) + 1024}


@pytest.fixture(scope="module", params=list(STORED_BYTES))
def fleet(request, artifact):
    """Two replicas with a number format, their Redis, and an image that the first one embedded."""
    with RedisServer() as redis:
        settings = {
            "EDGESAM_MODEL_DIR": str(artifact),
            "EDGESAM_REDIS_URL": redis.url,
            "EDGESAM_REDIS_READ_TIMEOUT_S": "10",  # for busy machines
            "EDGESAM_EMBEDDING_DTYPE": request.param,
            "EDGESAM_ADAPTERS": "roboflow",
            "EDGESAM_THREADS": "1",
        }
        with (
            ServiceProcess(settings) as one,
            ServiceProcess(settings) as other,
            open_client(one.url) as first,
            open_client(other.url) as second,
        ):
            image = embed(first, DATA)
            yield SimpleNamespace(dtype=request.param, redis=redis, first=first, second=second, image=image)


def tokens_of(response):
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<f2").reshape(4096, 256)


def test_the_number_format_is_named_and_has_its_size_in_redis(fleet):
    (model,) = fleet.first.get("/models").json()["models"]

    assert model["embedding_dtype"] == fleet.dtype
    (key,) = fleet.redis.ask("KEYS", f"edgesam:*:{fleet.dtype}:{fleet.image}")
    assert fleet.redis.ask("STRLEN", key) == 40 + STORED_BYTES[fleet.dtype]


def test_a_download_is_float16_and_the_same_from_every_replica(fleet):
    answers = [client.get(f"/embed/{fleet.image}") for client in (fleet.first, fleet.second)]

    tokens = tokens_of(answers[0])
    assert answers[0].content == answers[1].content
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    assert answers[0].headers["x-embedding-dtype"] == "float16"
    assert np.isfinite(tokens).all()
    if fleet.dtype == "int8":
        steps = [len(np.unique(channel)) for channel in tokens.T]
        assert max(steps) <= 255


def test_the_tokens_of_a_download_are_those_that_the_service_decodes(fleet, artifact):
    prompt = point(45, 30)
    ((served,),) = segment(fleet.first, fleet.image, prompt, multimask=1, format="logits")
    runtime = Runtime(artifact, provider="cpu", threads=1)
    tokens = tokens_of(fleet.first.get(f"/embed/{fleet.image}"))

    state = runtime.prepare(ImageEmbedding(tokens, SIZE)).arrays
    scale = 1024 / max(SIZE)
    points = np.array([[[45 * scale, 30 * scale], [0, 0]]], np.float32)
    decoded = runtime.decode(state, points, np.array([[1, -1]], np.int64)).mask_logits[0, 0]

    logits = np.frombuffer(base64.b64decode(served["logits"]), "<f2").reshape(256, 256)
    assert np.abs(decoded - logits).max() <= 2e-3 * np.abs(decoded).max()


def test_replicas_give_the_same_masks_refinements_and_objects(fleet):
    answers = [
        segment(client, fleet.image, point(45, 30), {"box": [5, 5, 60, 50]}) for client in (fleet.first, fleet.second)
    ]
    refinement = {**point(20, 20, 0), "mask_id": answers[0][1][0]["mask_id"]}
    refined = [segment(client, fleet.image, refinement) for client in (fleet.first, fleet.second)]
    objects = [find_all(client, fleet.image, points_per_side=2) for client in (fleet.first, fleet.second)]

    assert answers[0] == answers[1]
    assert refined[0] == refined[1]
    assert objects[0]["masks"] == objects[1]["masks"]
    assert objects[0]["masks"]


def test_roboflow_s_embedding_is_that_of_the_download(fleet):
    expected = tokens_of(fleet.first.get(f"/embed/{fleet.image}")).astype(np.float32)

    answer = fleet.first.post("/sam/embed_image", json={"image_id": fleet.image, "format": "binary"})

    assert answer.status_code == 200, answer.text
    planes = np.load(io.BytesIO(answer.content))[0]
    found = planes.reshape(256, 4096).T
    if fleet.dtype == "float32":
        found = found.astype(np.float16)
    assert_array_equal(found.astype(np.float32), expected)


def test_a_region_and_a_deletion_work_in_every_number_format(fleet):
    data = noise_file((80, 100), seed=802)
    answer = fleet.first.post("/embed?region=10,10,70,60", content=data)
    assert answer.status_code == 200, answer.text
    region = answer.json()["image_id"]

    assert fleet.second.head(f"/embed/{region}").headers["x-image-region"] == "10,10,70,60"
    masks = [segment(client, region, point(40, 30)) for client in (fleet.first, fleet.second)]
    assert masks[0] == masks[1]
    assert fleet.second.delete(f"/embed/{answer.json()['image_hash']}").status_code == 204
    assert fleet.second.head(f"/embed/{region}").status_code == 404
