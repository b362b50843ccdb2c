"""A model with three maps per image on replicas that only embed and only segment, and what it refuses by name."""

import pytest
from support.cache_values import sealed
from support.noise_images import noise_file
from support.replica_clients import replicas_of_roles
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess
from support.small_graphs import write_small_artifact

from service.composition.models import load_model
from service.errors import EmbeddingNotFound, InvalidRequest
from service.manifest import ManifestError
from service.settings import Settings

IMAGE = noise_file((90, 120), seed=90)
MIB = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a model with maps of high resolution."""
    return write_small_artifact(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def role_clients(small, redis_server):
    """Clients of a replica that embeds and of one that segments."""
    settings = {
        "EDGESAM_MODEL_DIR": str(small),
        "EDGESAM_REDIS_URL": redis_server.url,
        "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
        "EDGESAM_MEMORY_CACHE_BYTES": "0",
    }
    with replicas_of_roles(settings) as clients:
        yield clients


def key_of(redis_server, image_hash):
    (key,) = [key for key in redis_server.ask("KEYS", "edgesam:2:*") if key.endswith(image_hash.encode())]
    return key


def logits(masks):
    return [[mask["logits"] for mask in of_prompt] for of_prompt in masks]


def test_an_image_embedded_by_one_role_is_segmented_by_the_other(role_clients, redis_server, small):
    embedder, segmenter = role_clients
    prompts = [point(40, 40), {"box": [20, 20, 90, 80]}]

    image_hash = embed(embedder, IMAGE)
    masks = segment(segmenter, image_hash, *prompts, format="logits")

    assert redis_server.ask("STRLEN", key_of(redis_server, image_hash)) == 40 + 8 * MIB
    assert embedder.head(f"/embed/{image_hash}").headers["x-cache"] == "redis"
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(small)}) as alone, open_client(alone.url) as client:
        assert logits(segment(client, embed(client, IMAGE), *prompts, format="logits")) == logits(masks)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40] + data[40 + 2 * MIB :] + data[40 : 40 + 2 * MIB],
        lambda data: data[: 40 + 2 * MIB],
        lambda data: data[:-1],
        lambda data: data[: 5 * MIB] + bytes([data[5 * MIB] ^ 1]) + data[5 * MIB + 1 :],
    ],
    ids=["swapped", "tokens alone", "cut", "flipped"],
)
def test_a_damaged_value_is_a_miss_and_the_image_is_embedded_anew(role_clients, redis_server, damage):
    embedder, segmenter = role_clients
    image_hash = embed(embedder, IMAGE)
    expected = segment(segmenter, image_hash, point(40, 40), format="logits")
    key = key_of(redis_server, image_hash)
    redis_server.ask("SET", key, damage(redis_server.ask("GET", key)))

    answer = segmenter.post("/segment", json={"image_hash": image_hash, "prompts": [point(40, 40)]})

    assert_problem(answer, EmbeddingNotFound)
    assert redis_server.ask("EXISTS", key) == 0
    assert embed(embedder, IMAGE) == image_hash
    assert logits(segment(segmenter, image_hash, point(40, 40), format="logits")) == logits(expected)


def test_a_look_up_deletes_a_value_whose_header_is_not_of_the_model(role_clients, redis_server):
    embedder, _ = role_clients
    image_hash = embed(embedder, IMAGE)
    key = key_of(redis_server, image_hash)
    data = redis_server.ask("GET", key)
    redis_server.ask("SET", key, sealed(data[:5] + b"\x01" + data[6:40], data[40 : 40 + 2 * MIB]))

    assert embedder.head(f"/embed/{image_hash}").status_code == 404
    assert redis_server.ask("EXISTS", key) == 0


def test_the_download_of_several_maps_is_refused_by_name(role_clients):
    embedder, _ = role_clients

    problem = assert_problem(embedder.get(f"/embed/{embed(embedder, IMAGE)}"), InvalidRequest)

    assert "small has three maps" in problem["detail"]
    assert "/segment" in problem["detail"]


def test_a_model_is_refused_where_no_tier_would_keep_an_image(small):
    settings = Settings(memory_cache_bytes=35 * MIB, redis_url=None, threads=1)

    with pytest.raises(ManifestError, match=r"EDGESAM_MEMORY_CACHE_BYTES is too small .* 'small'"):
        load_model(settings, small)


@pytest.mark.parametrize(("mebibytes", "redis"), [(36, None), (0, "redis://127.0.0.1:6379")])
def test_a_model_is_loaded_where_a_tier_keeps_an_image(small, mebibytes, redis):
    settings = Settings(memory_cache_bytes=mebibytes * MIB, redis_url=redis, threads=1)

    assert load_model(settings, small).runtime.manifest.has_high_res
