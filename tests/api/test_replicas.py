"""Two replicas on one Redis: they share embeddings and masks, and serve from memory without Redis."""

import hashlib
import json
import threading
from collections import Counter

import pytest
from support.noise_images import noise_file
from support.redis_server import wait_until
from support.service_client import Scrape, assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.errors import CacheUnavailable, EmbeddingNotFound

WAIT_S = 60


def cached(client, data):
    """Return the cache tier in which `client` finds the image."""
    return client.post("/embed", content=data).json()["cached"]


def test_an_image_of_one_replica_is_found_in_its_memory_and_by_the_other_in_redis(replicas, next_seed):
    first, second = replicas
    data = noise_file((40, 50), next_seed)

    on_first = [cached(first, data), cached(first, data)]
    on_second = [cached(second, data), cached(second, data)]

    assert on_first == [None, "memory"]
    assert on_second == ["redis", "memory"]
    assert first.head(f"/embed/{hashlib.sha256(data).hexdigest()}").headers["x-cache"] == "memory"


def test_both_replicas_give_the_same_masks_of_an_image(replicas, next_seed):
    first, second = replicas
    image_hash = embed(first, noise_file((41, 51), next_seed))

    answers = [segment(client, image_hash, point(20, 20), format="logits") for client in (first, second)]

    assert answers[0] == answers[1]


def test_a_mask_of_one_replica_is_refined_on_the_other(replicas, next_seed):
    first, second = replicas
    image_hash = embed(first, noise_file((42, 52), next_seed))
    (mask,) = segment(first, image_hash, point(20, 20), multimask=1)[0]

    prompt = {**point(5, 5, label=0), "mask_id": mask["mask_id"]}
    answers = [segment(client, image_hash, prompt) for client in (first, second)]

    assert answers[0] == answers[1]


def test_200_refinements_on_the_other_of_two_loaded_replicas_find_their_masks(replicas, next_seed):
    image_hash = embed(replicas[0], noise_file((48, 58), next_seed))
    urls = [str(client.base_url) for client in replicas]
    statuses: list[int] = []

    def refine(first: str, second: str) -> None:
        with open_client(first) as asked, open_client(second) as other:
            for number in range(25):
                mask = segment(asked, image_hash, point(1 + number, 20))[0][0]
                prompt = {**point(1 + number, 20), "mask_id": mask["mask_id"]}
                answer = other.post("/segment", json={"image_hash": image_hash, "prompts": [prompt]})
                statuses.append(answer.status_code)

    # Four of these for each replica: one of them is always waiting for the decoder, or for a connection to Redis.
    threads = [threading.Thread(target=refine, args=pair) for pair in (urls, urls[::-1]) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(statuses) == {200: 200}


def test_an_image_deleted_on_one_replica_is_removed_from_redis(replicas, next_seed):
    first, second = replicas
    image_hash = embed(first, noise_file((43, 53), next_seed))

    deleted = second.delete(f"/embed/{image_hash}")

    assert deleted.status_code == 204
    assert_problem(second.delete(f"/embed/{image_hash}"), EmbeddingNotFound)


def test_replicas_asked_at_once_encode_an_image_once(replicas, next_seed):
    data = noise_file((44, 54), next_seed)
    before = encodes(replicas)
    answers = []

    def ask(client):
        with open_client(str(client.base_url)) as own:
            answers.append(cached(own, data))

    threads = [threading.Thread(target=ask, args=(client,)) for client in replicas for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 8
    assert None in answers
    assert encodes(replicas) == before + 1


def encodes(replicas):
    """Return the number of encoder runs of all replicas so far."""
    return sum(Scrape(client).value("edgesam_stage_duration_seconds_count", stage="encode") for client in replicas)


def test_without_redis_images_in_memory_are_served_and_others_are_unavailable(replicas, redis_server, next_seed):
    first, _ = replicas
    data = noise_file((45, 55), next_seed)
    image_hash = embed(first, data)
    unknown = hashlib.sha256(data + b"?").hexdigest()

    redis_server.kill()
    try:
        in_memory = first.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1)]})
        not_in_memory = [
            first.post("/segment", json={"image_hash": unknown, "prompts": [point(1, 1)]}),
            first.delete(f"/embed/{unknown}"),
            first.post("/segment", json={"image_hash": image_hash, "prompts": [{"mask_id": "0" * 32}]}),
        ]
        head = first.head(f"/embed/{unknown}")
        new = first.post("/embed", content=noise_file((46, 56), next_seed))
        ready = first.get("/readyz")
    finally:
        redis_server.start()

    assert in_memory.status_code == 200
    assert head.status_code == 503
    assert (new.status_code, new.json()["cached"]) == (200, None)
    assert ready.status_code == 200
    for response in not_in_memory:
        assert_problem(response, CacheUnavailable)
        assert int(response.headers["retry-after"]) >= 1
    assert Scrape(first).value("edgesam_cache_lookups_total", tier="redis", outcome="error") > 0
    wait_until(lambda: first.head(f"/embed/{unknown}").status_code == 404, timeout_s=WAIT_S)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000])
def test_a_damaged_value_in_redis_is_computed_anew(replicas, redis_server, next_seed, damage):
    first, second = replicas
    data = noise_file((47, 57), next_seed)
    image_hash = embed(first, data)
    (key,) = (key for key in redis_server.ask("KEYS", "*") if key.endswith(image_hash.encode()))
    redis_server.ask("SET", key, damage)

    segmented = second.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1)]})
    embedded = second.post("/embed", content=data)

    assert_problem(segmented, EmbeddingNotFound)
    assert (embedded.status_code, embedded.json()["cached"]) == (200, None)


def test_the_password_of_redis_does_not_appear_in_the_log(artifact, redis_server):
    url = redis_server.url.replace("redis://", "redis://user:very-secret@")

    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": url}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        response = client.post("/segment", json={"image_hash": "0" * 64, "prompts": [point(1, 1)]})

    assert_problem(response, CacheUnavailable)
    assert "very-secret" not in json.dumps(service.log) + response.text
