"""`image_id`: how an image was read is part of its identity, in all routes and on all replicas."""

import base64
import hashlib

import numpy as np
import pytest
from sam.tiff_files import one
from support.noise_images import noise_file, noise_image
from support.redis_server import wait_until
from support.service_client import assert_problem, point

from service.cache.redis.variants import VariantKeys
from service.errors import EmbeddingNotFound, InvalidRequest, UnsupportedImage

WAIT_S = 60


def bands_file(seed, bands=8):
    """Return a TIFF of many bands, in which each reading gives another image."""
    planes = [noise_image((30, 40), seed=seed + index)[..., 0] for index in range(bands)]
    return one(np.dstack(planes))


def embedded(client, data, **query):
    response = client.post("/embed", content=data, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def logits(client, image_id):
    body = {"image_hash": image_id, "prompts": [point(20, 15)], "format": "logits"}
    response = client.post("/segment", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_each_reading_of_an_image_is_an_image_of_its_own(client, next_seed):
    data = bands_file(next_seed)
    digest = hashlib.sha256(data).hexdigest()

    first = embedded(client, data, levels="minmax")
    second = embedded(client, data, bands="4,3,2")
    both = embedded(client, data, levels="percentile", bands="8,7,6")

    assert [answer["image_id"] for answer in (first, second, both)] == [
        f"{digest}~levels=minmax",
        f"{digest}~bands=4,3,2",
        f"{digest}~levels=percentile~bands=8,7,6",
    ]
    assert {answer["image_hash"] for answer in (first, second, both)} == {digest}
    assert [answer["levels"] for answer in (first, second, both)] == ["minmax", "full", "percentile"]
    masks = [logits(client, answer["image_id"]) for answer in (first, second, both)]
    assert len({mask["results"][0]["masks"][0]["logits"] for mask in masks}) == 3
    assert [mask["image_id"] for mask in masks] == [answer["image_id"] for answer in (first, second, both)]
    assert masks[0]["image_hash"] == digest
    assert_problem(client.post("/embed", content=data), UnsupportedImage)
    assert client.head(f"/embed/{digest}").status_code == 404


def test_every_route_takes_an_image_id(client, next_seed):
    answer = embedded(client, noise_file((30, 40), next_seed), levels="minmax")
    path = f"/embed/{answer['image_id']}"

    head, download = client.head(path), client.get(path)
    deleted, again = client.delete(path), client.delete(path)

    assert (head.status_code, head.headers["x-image-levels"], head.headers["x-image-size"]) == (200, "minmax", "40,30")
    assert len(download.content) == 4096 * 256 * 2
    assert deleted.status_code == 204
    assert_problem(again, EmbeddingNotFound)


def test_the_answer_of_embed_is_that_of_head_when_the_image_is_known(client, next_seed):
    data = noise_file((30, 40), next_seed)

    first, second = (embedded(client, data, levels="percentile") for _ in range(2))

    assert second.pop("cached") == "memory"
    assert first.pop("cached") is None
    assert first == second


@pytest.mark.parametrize("bands", ["3,2,1", [3, 2, 1]])
def test_levels_and_bands_are_members_of_json_too(client, next_seed, bands):
    data = noise_file((30, 40), next_seed)
    document = {"image": base64.b64encode(data).decode(), "levels": "minmax", "bands": bands}

    answer = client.post("/embed", json=document).json()

    assert answer["image_id"] == f"{hashlib.sha256(data).hexdigest()}~levels=minmax~bands=3,2,1"


@pytest.mark.parametrize("bands", [[4, 3], [4, 3, 2.5], [[4, 3, 2]], ["4", None, "2"], 4])
def test_other_bands_in_json_are_refused(client, bands):
    document = {"image": base64.b64encode(noise_file((30, 40), seed=1)).decode(), "bands": bands}

    (error,) = assert_problem(client.post("/embed", json=document), InvalidRequest)["errors"]

    assert "bands" in error["where"]


def test_levels_and_bands_are_fields_of_a_form_too(client, next_seed):
    data = noise_file((30, 40), next_seed)

    form = client.post("/embed", data={"levels": "minmax", "bands": "3,2,1"}, files={"image": data}).json()
    query = embedded(client, data, levels="minmax", bands="3,2,1")
    mixed = client.post("/embed?levels=minmax", data={"bands": "3,2,1"}, files={"image": data}).json()

    assert form["image_id"] == query["image_id"] == mixed["image_id"]
    assert query["cached"] == mixed["cached"] == "memory"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("levels", "bright", "auto"), ("levels", "", "auto"), ("levels", "FULL", "auto"), ("bands", "4,3", "4,3,2"),
        ("bands", "0,1,2", "4,3,2"), ("bands", "4;3;2", "4,3,2"), ("bands", "a" * 100_000, "4,3,2"),
    ],
)  # fmt: skip
def test_other_levels_and_bands_are_refused_with_the_choices(client, field, value, message):
    data = noise_file((30, 40), seed=1)

    form = client.post("/embed", data={field: value}, files={"image": data})
    query = client.post("/embed", params={field: value[:1000]}, content=data)

    for response in (form, query):
        (error,) = assert_problem(response, InvalidRequest)["errors"]
        assert field in error["where"]
        assert message in error["message"]
        assert len(response.content) < 2000


def test_a_query_that_contradicts_the_form_is_refused(client):
    response = client.post(
        "/embed?levels=full", data={"levels": "minmax"}, files={"image": noise_file((30, 40), seed=1)}
    )

    assert_problem(response, InvalidRequest)


def test_a_band_that_the_image_does_not_have_is_refused(client):
    response = client.post("/embed?bands=4,3,2", content=noise_file((30, 40), seed=1))

    assert assert_problem(response, InvalidRequest)["limit"] == 3


@pytest.mark.parametrize("text", ["", "~levels=full", "0" * 63, "0" * 64 + "~levels=auto", "0" * 64 + "~size=1"])
def test_what_is_no_image_id_is_refused_with_the_rule(client, text):
    body = {"image_hash": text, "prompts": [point(1, 1)]}

    (error,) = assert_problem(client.post("/segment", json=body), InvalidRequest)["errors"]

    assert error["where"] == "/image_hash"
    assert "image_id" in error["message"] or "levels" in error["message"]


def test_deleting_an_image_removes_all_its_readings_from_all_replicas(replicas, next_seed):
    first, second = replicas
    data = noise_file((43, 53), next_seed)
    plain, full, bands = (
        embedded(first, data, **query)["image_id"] for query in ({}, {"levels": "full"}, {"bands": "3,2,1"})
    )
    for image_id in (plain, full, bands):
        logits(second, image_id)

    assert second.delete(f"/embed/{plain}").status_code == 204

    for client in (second, first):
        for image_id in (plain, full, bands):
            wait_until(
                lambda client=client, path=f"/embed/{image_id}": client.head(path).status_code == 404, timeout_s=WAIT_S
            )
            body = {"image_hash": image_id, "prompts": [point(20, 15)]}
            assert_problem(client.post("/segment", json=body), EmbeddingNotFound)
    assert embedded(first, data, levels="full")["cached"] is None
    assert embedded(second, data, levels="full")["cached"] == "redis"
    assert second.head(f"/embed/{plain}").status_code == 404


def test_deleting_one_reading_leaves_the_others_on_all_replicas(replicas, next_seed):
    first, second = replicas
    data = noise_file((44, 54), next_seed)
    plain, full, bands = (
        embedded(first, data, **query)["image_id"] for query in ({}, {"levels": "full"}, {"bands": "3,2,1"})
    )
    logits(second, full)

    assert first.delete(f"/embed/{full}").status_code == 204

    wait_until(lambda: second.head(f"/embed/{full}").status_code == 404, timeout_s=WAIT_S)
    for client in (first, second):
        assert [client.head(f"/embed/{each}").status_code for each in (plain, full, bands)] == [200, 404, 200]


def test_a_reading_that_a_deletion_did_not_find_in_redis_is_not_served(replicas, redis_server, next_seed):
    first, second = replicas
    full = embedded(first, noise_file((46, 56), next_seed), levels="full")["image_id"]
    (key,) = (key.decode() for key in redis_server.ask("KEYS", f"edgesam:variant:*{full[:64]}*"))
    redis_server.ask("UNLINK", VariantKeys(key).index)  # as if Redis had evicted the index

    second.delete(f"/embed/{full.partition('~')[0]}")

    assert redis_server.ask("EXISTS", key) == 1
    assert second.get(f"/embed/{full}").status_code == 404
    assert redis_server.ask("EXISTS", key) == 0
    wait_until(lambda: first.head(f"/embed/{full}").status_code == 404, timeout_s=WAIT_S)


def test_masks_of_a_reading_are_deleted_with_the_image(replicas, next_seed):
    first, _ = replicas
    data = noise_file((45, 55), next_seed)
    full = embedded(first, data, levels="full")["image_id"]
    mask_id = logits(first, full)["results"][0]["masks"][0]["mask_id"]

    first.delete(f"/embed/{full.partition('~')[0]}")
    embedded(first, data, levels="full")

    body = {"image_hash": full, "prompts": [{**point(20, 15), "mask_id": mask_id}]}
    assert first.post("/segment", json=body).status_code == 404


def test_roboflow_takes_an_image_id(tools, next_seed):
    image_id = embedded(tools, noise_file((30, 40), next_seed), levels="minmax")["image_id"]

    body = {"image_id": image_id, "prompts": {"prompts": [{"points": [{"x": 20, "y": 15, "positive": True}]}]}}
    answer = tools.post("/sam2/segment_image", json=body)
    array = tools.post("/sam/embed_image", json={"image_id": image_id, "format": "binary"})

    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 1
    assert array.headers["x-image-hash"] == image_id.partition("~")[0]
