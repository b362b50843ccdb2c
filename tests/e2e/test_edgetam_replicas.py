"""EdgeTAM on replicas that share one Redis: images, masks, damaged values and deletions."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.cache_values import parts_of_maps
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.replica_clients import Clients, two_replicas
from support.service_client import Scrape, assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound
from service.settings import BUNDLED_MODEL

pytestmark = pytest.mark.slow

SIZE = (180, 240)
BOX = {"box": [40, 30, 190, 150]}
PROMPTS = [
    point(120, 90),
    BOX,
    {**BOX, **point(100, 80)},
    {"points": [{"x": 60, "y": 60}, {"x": 9, "y": 9, "label": 0}]},
]
MIB = 1 << 20
WAIT_S = 60.0
SHARED = {
    "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",  # on a busy machine Redis may answer late
    "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
    "EDGESAM_REDIS_LOCK_TTL_S": "60",
    "EDGESAM_MASK_STORE_TIMEOUT_S": "5",
}


@pytest.fixture(scope="module")
def shared(edgetam_artifact: Path, redis_server: RedisServer) -> dict[str, str]:
    """Settings of every replica."""
    return {**SHARED, "EDGESAM_MODEL_DIR": str(edgetam_artifact), "EDGESAM_REDIS_URL": redis_server.url}


@pytest.fixture(scope="module")
def replicas(shared) -> Iterator[Clients]:
    """Clients of two replicas that embed and segment."""
    with two_replicas(shared, shared) as clients:
        yield clients


@pytest.fixture(scope="module")
def roles(shared) -> Iterator[Clients]:
    """Clients of a replica that only embeds and of one that only segments and keeps nothing in memory."""
    segmenting = {"EDGESAM_ROLE": "segment", "EDGESAM_MEMORY_CACHE_BYTES": "0"}
    with two_replicas({**shared, "EDGESAM_ROLE": "embed"}, {**shared, **segmenting}) as clients:
        yield clients


def key_of(redis_server: RedisServer, image_id: str) -> bytes:
    """Return the key of the embedding of an image in Redis."""
    (key,) = [key for key in redis_server.ask("KEYS", "edgesam:2:*") if key.endswith(image_id.encode())]
    return key


def encodes(client: httpx.Client) -> float:
    """Return the number of encoder runs of a replica so far."""
    return Scrape(client).value("edgesam_stage_duration_seconds_count", stage="encode")


def asked(client: httpx.Client, image_id: str) -> httpx.Response:
    """Return the answer to a click."""
    return client.post("/segment", json={"image_hash": image_id, "prompts": [point(9, 9)]})


@pytest.mark.parametrize("multimask", ["auto", 1, 3, 4])
def test_one_replica_embeds_an_image_and_both_give_the_same_masks(replicas, redis_server, multimask):
    first, second = replicas
    image_id = embed(first, noise_file(SIZE, seed=300))
    before = encodes(second)

    answers = [
        segment(client, image_id, *PROMPTS, multimask=multimask, format=output)
        for output in ("logits", "rle")
        for client in replicas
    ]

    assert redis_server.ask("STRLEN", key_of(redis_server, image_id)) == 40 + 8 * MIB
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert encodes(second) == before


def test_a_mask_of_one_replica_is_refined_on_the_other(replicas):
    image_id = embed(replicas[0], noise_file(SIZE, seed=301))
    ((mask,),) = segment(replicas[0], image_id, BOX)

    refined = [segment(client, image_id, {**point(80, 80), "mask_id": mask["mask_id"]}) for client in replicas]

    assert refined[0] == refined[1]


def test_a_replica_that_only_segments_answers_as_one_that_embedded_the_image(roles, replicas):
    embedder, segmenter = roles
    data = noise_file(SIZE, seed=302)

    answer = segment(segmenter, embed(embedder, data), *PROMPTS, format="logits")

    assert embedder.post("/embed", content=data).json()["cached"] == "memory"
    assert answer == segment(replicas[0], embed(replicas[0], data), *PROMPTS, format="logits")


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tokens, s1, s0: header + s1 + tokens + s0,
        lambda header, tokens, s1, s0: header + tokens + s0 + s1,
        lambda header, tokens, s1, s0: header + tokens + s1 + s0[: len(s0) // 2],
        lambda header, tokens, s1, s0: header + tokens,
        lambda header, tokens, s1, s0: header + tokens + s1 + s0[:MIB] + bytes([s0[MIB] ^ 1]) + s0[MIB + 1 :],
        lambda header, tokens, s1, s0: b"",
    ],
    ids=["tokens and s1 swapped", "s1 and s0 swapped", "truncated", "tokens alone", "one bit flipped", "empty"],
)
def test_a_damaged_value_is_a_miss_for_every_role_and_is_embedded_anew(roles, redis_server, change):
    embedder, segmenter = roles
    data = noise_file(SIZE, seed=303)
    image_id = embed(embedder, data)
    expected = segment(segmenter, image_id, *PROMPTS, format="logits")
    key = key_of(redis_server, image_id)

    redis_server.ask("SET", key, change(*parts_of_maps(redis_server.ask("GET", key))))

    assert_problem(asked(segmenter, image_id), EmbeddingNotFound)
    assert embed(embedder, data) == image_id
    assert segment(segmenter, image_id, *PROMPTS, format="logits") == expected


def test_the_value_of_another_model_is_a_miss(roles, redis_server):
    embedder, segmenter = roles
    data = noise_file(SIZE, seed=304)
    image_id = embed(embedder, data)
    key = key_of(redis_server, image_id)
    lite = {**SHARED, "EDGESAM_MODEL_DIR": str(BUNDLED_MODEL), "EDGESAM_REDIS_URL": redis_server.url}
    with ServiceProcess(lite) as service, open_client(service.url) as client:
        embed(client, data)
    keys = [found for found in redis_server.ask("KEYS", "edgesam:2:*") if found.endswith(image_id.encode())]
    (other,) = set(keys) - {key}

    redis_server.ask("COPY", other, key, "REPLACE")

    assert_problem(asked(segmenter, image_id), EmbeddingNotFound)
    assert embed(embedder, data) == image_id
    assert asked(segmenter, image_id).status_code == 200


def test_a_deletion_reaches_both_replicas(replicas):
    image_id = embed(replicas[0], noise_file(SIZE, seed=305))
    assert [asked(client, image_id).status_code for client in replicas] == [200, 200]

    assert replicas[1].delete(f"/embed/{image_id}").status_code == 204

    for client in replicas:
        wait_until(
            lambda: asked(client, image_id).status_code == 404,  # noqa: B023
            timeout_s=WAIT_S,
            what="a replica still has the image",
        )
    assert replicas[0].post("/embed", content=noise_file(SIZE, seed=305)).json()["cached"] is None
