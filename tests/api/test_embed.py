"""POST, HEAD and DELETE of /embed on one replica."""

import hashlib

import pytest
from PIL import Image
from support.noise_images import as_file, noise_file, noise_image
from support.service_client import assert_problem

from service.errors import EmbeddingNotFound, InvalidRequest

UNKNOWN = "0" * 64


def test_a_raw_body_is_answered_with_hash_and_size(client):
    data = noise_file((30, 40), seed=1)

    response = client.post("/embed", content=data, headers={"Content-Type": "image/png"})

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer.pop("expires_in_s") == 86400
    assert answer.pop("cached") in {None, "memory"}
    assert answer == {
        "image_hash": hashlib.sha256(data).hexdigest(),
        "image_id": hashlib.sha256(data).hexdigest(),
        "width": 40,
        "height": 30,
        "region": None,
        "orientation": 1,
        "levels": "full",
        "model": "random",
    }


def test_multipart_is_the_same_image_as_the_raw_body(client):
    data = noise_file((31, 41), seed=2)

    raw = client.post("/embed", content=data).json()
    multipart = client.post("/embed", files={"image": ("cat.png", data, "image/png")}).json()

    assert multipart.pop("cached") == "memory"
    assert raw.pop("cached") in {None, "memory"}
    assert multipart == raw


def test_further_multipart_fields_are_ignored(client):
    data = noise_file((32, 42), seed=3)

    response = client.post("/embed", data={"note": "x" * 1000}, files={"image": data, "other": b"not an image"})

    assert response.json()["image_hash"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_documented_format_is_taken(client, file_format):
    data = as_file(noise_image((20, 50), seed=4), file_format)

    answer = client.post("/embed", content=data).json()

    assert (answer["width"], answer["height"]) == (50, 20)


@pytest.mark.parametrize("content_type", ["image/webp", "application/octet-stream", "IMAGE/PNG; charset=x", None])
def test_the_bytes_decide_about_the_format_and_not_the_content_type(client, content_type):
    data = noise_file((21, 51), seed=5)
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = client.post("/embed", content=data, headers=headers)

    assert response.status_code == 200


def test_an_image_with_exif_orientation_has_the_size_of_the_upright_image(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = as_file(noise_image((30, 44), seed=6), "JPEG", exif=exif)

    answer = client.post("/embed", content=data).json()

    assert (answer["width"], answer["height"]) == (30, 44)


def test_an_image_is_computed_once_and_then_found_in_memory(client, next_seed):
    data = noise_file((33, 43), next_seed)

    first = client.post("/embed", content=data)
    second = client.post("/embed", content=data)

    assert (first.json()["cached"], second.json()["cached"]) == (None, "memory")
    assert "encode;dur=" in first.headers["server-timing"]
    assert "encode;dur=" not in second.headers["server-timing"]


def test_head_names_the_cache_tier_and_delete_removes_the_image(client, next_seed):
    data = noise_file((34, 44), next_seed)
    address = f"/embed/{hashlib.sha256(data).hexdigest()}"

    before = client.head(address)
    client.post("/embed", content=data)
    after = client.head(address)
    deleted = client.delete(address)
    again = client.delete(address)
    at_last = client.head(address)

    assert [before.status_code, after.status_code, at_last.status_code] == [404, 200, 404]
    assert after.headers["x-cache"] == "memory"
    assert (after.headers["x-image-size"], after.headers["x-image-orientation"]) == ("44,34", "1")
    assert "x-cache" not in before.headers
    assert before.content == after.content == b""
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert_problem(again, EmbeddingNotFound)


def test_a_deleted_image_can_be_embedded_again(client, next_seed):
    data = noise_file((35, 45), next_seed)
    image_hash = client.post("/embed", content=data).json()["image_hash"]
    client.delete(f"/embed/{image_hash}")

    response = client.post("/embed", content=data)

    assert response.json()["cached"] is None


@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
def test_an_unknown_image_is_not_found(client, method):
    response = client.request(method, f"/embed/{UNKNOWN}")

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("image_hash", ["abc", "0" * 65, "g" * 64])
def test_a_malformed_image_hash_is_refused(client, image_hash):
    document = assert_problem(client.delete(f"/embed/{image_hash}"), InvalidRequest)

    assert document["errors"][0]["where"] == "/path/image_hash"
    assert client.head(f"/embed/{image_hash}").status_code == 422
