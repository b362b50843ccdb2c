"""HEAD with Prefer: prefetch loads an image from Redis into memory, ahead of the first prompt."""

import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import Scrape, embed, open_client, point, segment
from support.service_process import ServiceProcess

WAIT_S = 60


def head(client, image_hash, **headers):
    return client.head(f"/embed/{image_hash}", headers=headers)


def lookups(client, tier, outcome):
    return Scrape(client).value("edgesam_cache_lookups_total", tier=tier, outcome=outcome)


def is_in_memory(client, image_hash):
    return head(client, image_hash).headers["x-cache"] == "memory"


@pytest.mark.parametrize("preference", ["prefetch", "respond-async, Prefetch; soon=yes"])
def test_an_image_of_another_replica_is_loaded_ahead_of_the_first_prompt(replicas, next_seed, preference):
    first, second = replicas
    image_hash = embed(first, noise_file((40, 52), next_seed))

    answer = head(second, image_hash, Prefer=preference)
    wait_until(lambda: is_in_memory(second, image_hash), timeout_s=WAIT_S, what="the image was not loaded")
    reads = lookups(second, "redis", "hit")
    segment(second, image_hash, point(20, 20))

    assert answer.status_code == 200
    assert answer.headers["x-cache"] == "redis"
    assert answer.headers["preference-applied"] == "prefetch"
    assert lookups(second, "redis", "hit") == reads


@pytest.mark.parametrize("headers", [{}, {"Prefer": "return=minimal"}, {"Prefer": "prefetching, wait=1"}], ids=str)
def test_a_look_up_without_the_preference_loads_nothing(replicas, next_seed, headers):
    first, second = replicas
    image_hash = embed(first, noise_file((41, 52), next_seed))
    reads = lookups(second, "redis", "hit")

    answers = [head(second, image_hash, **headers) for _ in range(3)]

    assert [each.headers["x-cache"] for each in answers] == ["redis"] * 3
    assert not any("preference-applied" in each.headers for each in answers)
    assert lookups(second, "redis", "hit") == reads


def test_an_image_in_memory_is_not_loaded_again(replicas, next_seed):
    first, _ = replicas
    image_hash = embed(first, noise_file((42, 52), next_seed))
    reads = lookups(first, "redis", "hit")

    answer = head(first, image_hash, Prefer="prefetch")

    assert answer.headers["x-cache"] == "memory"
    assert answer.headers["preference-applied"] == "prefetch"
    assert lookups(first, "redis", "hit") == reads


def test_an_unknown_image_is_404_with_the_preference(replicas):
    answer = head(replicas[0], "0" * 64, Prefer="prefetch")

    assert answer.status_code == 404
    assert "preference-applied" not in answer.headers


def test_a_deleted_image_is_loaded_no_more(replicas, next_seed):
    first, second = replicas
    image_hash = embed(first, noise_file((43, 52), next_seed))

    assert head(second, image_hash, Prefer="prefetch").status_code == 200
    assert first.delete(f"/embed/{image_hash}").status_code == 204

    wait_until(lambda: head(second, image_hash).status_code == 404, timeout_s=WAIT_S, what="the image was kept")
    assert head(second, image_hash, Prefer="prefetch").status_code == 404


@pytest.mark.parametrize(
    "setting", [{"EDGESAM_MEMORY_CACHE_BYTES": "0"}, {"EDGESAM_ROLE": "embed"}], ids=["no memory", "embeds"]
)
def test_a_replica_that_keeps_no_prepared_images_ignores_the_preference(artifact, setting):
    with (
        RedisServer() as redis,
        ServiceProcess(
            {
                "EDGESAM_MODEL_DIR": str(artifact),
                "EDGESAM_REDIS_URL": redis.url,
                **setting,
            }
        ) as process,
        open_client(process.url) as client,
    ):
        image_hash = embed(client, noise_file((44, 52), 1))
        reads = lookups(client, "redis", "hit")

        answer = head(client, image_hash, Prefer="prefetch")

        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers
        assert lookups(client, "redis", "hit") == reads
