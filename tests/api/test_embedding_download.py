"""GET /embed/{image_hash}: tokens for clients that decode themselves, with range and conditional requests."""

import numpy as np
import pytest
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.redis_server import RedisServer
from support.service_client import assert_problem, embed, open_client, wait_for_in_flight
from support.service_process import ServiceProcess

from service.errors import (
    CacheUnavailable,
    EmbeddingNotFound,
    InvalidRequest,
    Overloaded,
    RangeNotSatisfiable,
    UnsupportedImage,
)
from service.inference.backends.runtime import Runtime
from service.sam.images import decode_image
from service.sam.transforms import preprocess

ROUTE = "/embed/{image_hash}"
BYTES = 4096 * 256 * 2
UNKNOWN = "4" * 64


@pytest.fixture(scope="module")
def path(client):
    """The path of an embedded image."""
    return f"/embed/{embed(client, noise_file((60, 90), seed=301))}"


def test_the_tokens_are_those_of_the_encoder(client, path, artifact):
    runtime = Runtime(artifact, provider="cpu", threads=1)
    image = decode_image(noise_file((60, 90), seed=301), max_pixels=10_000).pixels
    frame = preprocess(image, runtime.manifest.mean, runtime.manifest.std, runtime.manifest.image_size)
    (expected,) = runtime.encode(frame[None]).tokens

    response = client.get(path)

    tokens = np.frombuffer(response.content, "<f2").reshape(4096, 256)
    assert response.status_code == 200
    assert np.abs(tokens.astype(np.float32) - expected.reshape(4096, 256)).max() < 5e-3 * np.abs(expected).max()


def test_headers_describe_shape_type_and_model_of_the_bytes(client, path):
    response = client.get(path)

    assert response.headers["content-type"] == "application/octet-stream"
    assert int(response.headers["content-length"]) == len(response.content) == BYTES
    assert response.headers["x-embedding-shape"] == "4096,256"
    assert response.headers["x-embedding-dtype"] == "float16"
    assert response.headers["x-image-size"] == "90,60"
    assert response.headers["x-fingerprint"] == client.get("/models").json()["models"][0]["fingerprint"]
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["cache-control"] == "private, no-cache"


def test_a_client_with_the_same_etag_gets_304(client, path):
    etag = client.get(path).headers["etag"]

    answers = [client.get(path, headers={"If-None-Match": one}) for one in (etag, f'"x", W/{etag}', "*")]
    other = client.get(path, headers={"If-None-Match": '"x"'})

    assert [(answer.status_code, answer.content, answer.headers["etag"]) for answer in answers] == [
        (304, b"", etag)
    ] * 3
    assert (other.status_code, len(other.content)) == (200, BYTES)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes={BYTES - 1}-", BYTES - 1, BYTES),
        ("bytes=1000000-99999999", 1_000_000, BYTES),
        ("bytes=-7", BYTES - 7, BYTES),
        (f"bytes=-{BYTES * 2}", 0, BYTES),
    ],
)
def test_a_range_request_gets_that_part_of_the_bytes(client, path, wanted, start, stop):
    whole = client.get(path)

    part = client.get(path, headers={"Range": wanted})

    assert part.status_code == 206
    assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{BYTES}"
    assert part.headers["etag"] == whole.headers["etag"]
    assert part.content == whole.content[start:stop]


@pytest.mark.parametrize("wanted", ["bytes=5-4", "bytes=-", "bytes=a-b", "bytes=0-1,4-5", "lines=0-1", "bytes 0-1", ""])
def test_an_invalid_range_header_is_ignored(client, path, wanted):
    response = client.get(path, headers={"Range": wanted})

    assert (response.status_code, len(response.content)) == (200, BYTES)


@pytest.mark.parametrize(
    "wanted", [f"bytes={BYTES}-", f"bytes={BYTES}-{BYTES + 1}", "bytes=-0", "bytes=9" + "9" * 17 + "-"]
)
def test_a_range_behind_the_end_is_refused(client, path, wanted):
    response = client.get(path, headers={"Range": wanted})

    document = assert_problem(response, RangeNotSatisfiable)
    assert document["size"] == BYTES
    assert response.headers["content-range"] == f"bytes */{BYTES}"


def test_a_range_with_another_etag_gets_all_bytes(client, path):
    etag = client.get(path).headers["etag"]

    same = client.get(path, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = client.get(path, headers={"Range": "bytes=0-9", "If-Range": '"other"'})

    assert (same.status_code, len(same.content)) == (206, 10)
    assert (other.status_code, len(other.content)) == (200, BYTES)


def test_an_image_that_is_not_embedded_is_not_found(client):
    document = assert_problem(client.get(f"/embed/{UNKNOWN}"), EmbeddingNotFound)

    assert "POST the image to /embed" in document["detail"]
    assert_problem(client.get("/embed/x"), InvalidRequest)


def test_another_replica_has_the_same_bytes(replicas, next_seed):
    first, second = replicas
    path = f"/embed/{embed(first, noise_file((40, 40), seed=next_seed))}"

    answers = [replica.get(path) for replica in (first, second)]

    assert answers[0].content == answers[1].content
    assert answers[0].headers["etag"] == answers[1].headers["etag"]


def test_downloads_have_permits_apart_from_uploads(artifact):
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_MAX_EMBED_REQUESTS": "1",
        "EDGESAM_REDIS_READ_TIMEOUT_S": "10",
        "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "10",
    }
    with (
        RedisServer() as redis,
        ServiceProcess({**settings, "EDGESAM_REDIS_URL": redis.url}) as service,
        open_client(service.url) as client,
        RawConnection(service.url) as waiting,
    ):
        redis.pause()
        waiting.start(f"/embed/{UNKNOWN}", method="GET")
        wait_for_in_flight(client, ROUTE)

        assert_problem(client.get(f"/embed/{UNKNOWN}"), Overloaded)
        text = client.post("/embed", content=b"x", headers={"Content-Type": "text/plain"})
        assert_problem(text, UnsupportedImage)

        redis.resume()
        assert_problem(waiting.response("GET"), EmbeddingNotFound)
        redis.kill()
        assert_problem(client.get(f"/embed/{UNKNOWN}"), CacheUnavailable)
