"""Sharing images between replicas: answered uploads are shared, used images are renewed, deleted ones stay deleted."""

import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound


def test_an_answered_upload_can_be_segmented_on_every_replica_at_once(replicas, next_seed):
    first, second = replicas

    for number in range(4):
        image_hash = embed(first, noise_file((30, 31 + number), next_seed))

        assert segment(second, image_hash, point(9, 9), format="none")


@pytest.mark.parametrize("ask", ["post", "head"])
def test_an_image_that_redis_lost_is_stored_again_by_a_replica_that_has_it(replicas, redis_server, next_seed, ask):
    first, second = replicas
    data = noise_file((33, 34), next_seed)
    image_hash = embed(first, data)
    redis_server.ask("FLUSHALL")

    if ask == "post":
        assert first.post("/embed", content=data).json()["cached"] == "memory"
    else:
        assert first.head(f"/embed/{image_hash}").headers["x-cache"] == "memory"

    assert segment(second, image_hash, point(9, 9), format="none")


def test_a_look_up_of_an_image_in_memory_renews_it_in_redis(replicas, redis_server, next_seed):
    first, _ = replicas
    data = noise_file((35, 34), next_seed)
    image_hash = embed(first, data)
    (key,) = [key for key in redis_server.ask("KEYS", "*") if key.endswith(image_hash.encode())]
    redis_server.ask("PEXPIRE", key.decode(), "60000")

    first.post("/embed", content=data)

    assert int(redis_server.ask("PTTL", key.decode())) > 60_000


def test_an_image_deleted_right_behind_its_upload_stays_deleted(replicas, next_seed):
    first, second = replicas

    for number in range(4):
        image_hash = embed(first, noise_file((36, 34 + number), next_seed))
        assert first.delete(f"/embed/{image_hash}").status_code == 204

        answer = second.post("/segment", json={"image_hash": image_hash, "prompts": [point(9, 9)]})
        assert_problem(answer, EmbeddingNotFound)


def test_a_replica_without_memory_serves_from_redis(artifact, redis_server, next_seed):
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_REDIS_URL": redis_server.url,
        "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
        "EDGESAM_MEMORY_CACHE_BYTES": "0",
    }

    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image_hash = embed(client, noise_file((37, 34), next_seed))

        assert segment(client, image_hash, point(9, 9), format="none")
        assert client.head(f"/embed/{image_hash}").headers["x-cache"] == "redis"
