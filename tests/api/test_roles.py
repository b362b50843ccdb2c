"""Two replicas with the roles embed and segment on one Redis: the routes that each answers or refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer
from support.replica_clients import Clients, replicas_of_roles
from support.service_client import Scrape, assert_problem, embed, point, segment

from service.errors import Misdirected

IMAGE = noise_file((120, 160), seed=70)
UNKNOWN = "0" * 64


@pytest.fixture(scope="module")
def role_clients(artifact: Path, redis_server: RedisServer) -> Iterator[Clients]:
    """Clients of a replica that embeds and of one that segments."""
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_REDIS_URL": redis_server.url,
        "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
    }
    with replicas_of_roles(settings) as clients:
        yield clients


def test_an_image_embedded_by_one_role_is_segmented_by_the_other(role_clients, client):
    embedder, segmenter = role_clients
    prompts = [point(40, 40), {"box": [20, 20, 90, 100]}]

    masks = segment(segmenter, embed(embedder, IMAGE), *prompts)

    assert masks == segment(client, embed(client, IMAGE), *prompts)


def test_a_mask_is_refined_where_it_was_made(role_clients):
    embedder, segmenter = role_clients
    image_hash = embed(embedder, IMAGE)
    ((first, *_),) = segment(segmenter, image_hash, point(40, 40))

    refined = segment(segmenter, image_hash, {**point(80, 80, 0), "mask_id": first["mask_id"]})

    assert len(refined[0]) == 1


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        (0, "POST", "/segment"),
        (0, "POST", "/segment/everything"),
        (1, "POST", "/embed"),
        (1, "GET", f"/embed/{UNKNOWN}"),
        (1, "DELETE", f"/embed/{UNKNOWN}"),
    ],
)
def test_work_of_the_other_role_is_refused_and_the_problem_names_that_role(role_clients, role, method, path):
    client = role_clients[role]

    response = client.request(method, path)

    document = assert_problem(response, Misdirected)
    assert ("EDGESAM_ROLE=embed", "EDGESAM_ROLE=segment")[role] in document["detail"]
    assert ("role segment or all", "role embed or all")[role] in document["detail"]
    assert Scrape(client).value("edgesam_rejected_total", reason="misdirected") > 0


def test_both_know_whether_an_image_is_embedded(role_clients):
    known = embed(role_clients[0], IMAGE)

    statuses = [[role.head(f"/embed/{one}").status_code for one in (known, UNKNOWN)] for role in role_clients]

    assert statuses == [[200, 404], [200, 404]]


def test_each_replica_states_its_role_and_serves_the_page(role_clients):
    models = [role.get("/models").json()["models"][0] for role in role_clients]

    assert [model["role"] for model in models] == ["embed", "segment"]
    assert [list(model["provider_timings_ms"]) for model in models] == [["encoder"], ["decoder"]]
    assert models[0]["decoder"] == "none" != models[1]["decoder"]
    assert models[0]["fingerprint"] == models[1]["fingerprint"]
    assert [role.get("/").status_code for role in role_clients] == [200, 200]
    assert [role.get("/readyz").status_code for role in role_clients] == [200, 200]


def test_a_replica_with_role_embed_keeps_images_without_prepared_states(role_clients):
    embedder, _ = role_clients
    before = Scrape(embedder).value("edgesam_cache_bytes", tier="memory")

    embed(embedder, noise_file((60, 70), seed=71))

    assert Scrape(embedder).value("edgesam_cache_bytes", tier="memory") - before == 4096 * 256 * 2
