"""Everything results in Redis: answered again without decoding, shared by replicas, and deleted with their image."""

import contextlib
import hashlib
import json
import zlib

import pytest
from support.everything_requests import ask, find_all, masks_of, stream
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import Scrape, assert_problem, embed, open_client, request_line
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound

from .conftest import LONG_REDIS_TIMEOUTS

SIZE = (43, 53)
WAIT_S = 60.0


@pytest.fixture(scope="module")
def server():
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def services(artifact, server):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": server.url, **LONG_REDIS_TIMEOUTS}
    with ServiceProcess(settings) as one, ServiceProcess(settings) as other:
        yield one, other


@pytest.fixture(scope="module")
def clients(services):
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(open_client(service.url)) for service in services)


def results_in(server):
    return [key for key in server.ask("KEYS", "*") if b"everything" in key]


def prompts(client):
    return Scrape(client).value("edgesam_everything_prompts_total")


def test_the_same_request_is_answered_again_without_decoding_in_every_format(clients, services, next_seed):
    client, _ = clients
    image = embed(client, noise_file(SIZE, next_seed))
    computed = {name: find_all(client, image, format=name) for name in ("rle",)}["rle"]
    before = prompts(client)

    response = ask(client, image)
    lines = list(stream(client, image))
    pngs = find_all(client, image, format="png", tolerance_pixels=2)

    assert prompts(client) == before
    cached = response.json()
    assert (computed.pop("cached"), cached.pop("cached")) == (None, "redis")
    assert cached == computed
    assert (lines[0]["cached"], lines[0]["prompts"]) == ("redis", 0)
    assert masks_of(lines) == computed["masks"]
    assert [mask["id"] for mask in pngs["masks"]] == [mask["id"] for mask in computed["masks"]]
    line = request_line(services[0], response.headers["x-request-id"])
    assert (line["cached"], line["prompts"], line["masks"]) == ("redis", 0, len(cached["masks"]))
    scrape = Scrape(client)
    assert scrape.value("edgesam_cache_lookups_total", tier="everything", outcome="hit") >= 3
    assert scrape.value("edgesam_everything_masks_total", source="cached") >= 3 * len(cached["masks"])


def test_another_replica_answers_with_the_result(clients, next_seed):
    first, second = clients
    image = embed(first, noise_file(SIZE, next_seed))
    computed = find_all(first, image)

    found = find_all(second, image)

    assert found["cached"] == "redis"
    assert found["masks"] == computed["masks"]


def test_other_parameters_are_another_result(clients, next_seed):
    client, _ = clients
    image = embed(client, noise_file(SIZE, next_seed))
    others = [{}, {"points_per_side": 3}, {"max_masks": 5}, {"box_nms_thresh": 0.5}, {"fast": True}]
    for other in others:
        assert find_all(client, image, **other)["cached"] is None
        assert find_all(client, image, **other)["cached"] == "redis"


def test_a_deleted_image_takes_its_results_and_those_of_its_variants_and_regions_along(clients, server, next_seed):
    first, second = clients
    data = noise_file(SIZE, next_seed)
    image = embed(first, data)
    variant = first.post("/embed", params={"levels": "minmax"}, content=data).json()["image_id"]
    region = first.post("/embed", params={"region": "3,2,40,38"}, content=data).json()["image_id"]
    assert len({image, variant, region}) == 3
    before = results_in(server)
    for each in (image, variant, region):
        computed = find_all(first, each)
        cached = find_all(second, each)
        assert (computed.pop("cached"), cached.pop("cached")) == (None, "redis")
        assert cached == computed
    assert (cached["region"], cached["masks"][0]["crop_box"]) == ([3, 2, 40, 38], [3, 2, 37, 36])
    assert len(results_in(server)) > len(before)

    assert second.delete(f"/embed/{image}").status_code == 204

    assert sorted(results_in(server)) == sorted(before)
    for client in clients:
        wait_until(lambda client=client: ask(client, image).status_code == 404, timeout_s=WAIT_S)
        for each in (variant, region):
            assert_problem(ask(client, each), EmbeddingNotFound)
    embed(first, data)
    assert find_all(first, image)["cached"] is None


def test_a_result_that_is_computed_during_the_deletion_is_not_kept(clients, server, next_seed):
    first, second = clients
    image = embed(first, noise_file(SIZE, next_seed))
    before = results_in(server)
    with contextlib.closing(stream(first, image, points_per_side=16)) as lines:
        assert next(lines)["event"] == "start"
        assert second.delete(f"/embed/{image}").status_code == 204
        *_, last = lines

    assert last["event"] == "end"
    assert sorted(results_in(server)) == sorted(before)


def test_damaged_and_foreign_values_are_refused_and_computed_again(clients, server, next_seed):
    client, _ = clients
    image, other = (embed(client, noise_file(SIZE, next_seed + i)) for i in range(2))
    before = set(results_in(server))
    computed = find_all(client, image)
    (key,) = set(results_in(server)) - before
    value = server.ask("GET", key)
    text = zlib.decompress(value[5:])

    for wrong in (
        b"",
        b"forged",
        value[:-1],
        value[:20] + bytes([value[20] ^ 1]) + value[21:],
        value + b"\0",
        value[:5] + zlib.compress(text.replace(b'"area":', b'"area":1')),
        value[:5] + zlib.compress(text.replace(image.encode(), other.encode())),
        value[:5] + zlib.compress(b"[" * 100_000),
        value[:5] + zlib.compress(bytes(64 << 20)),
    ):
        server.ask("SET", key, wrong)
        answer = find_all(client, image)
        assert (answer["cached"], answer["masks"]) == (None, computed["masks"]), wrong[:40]
        assert json.loads(zlib.decompress(server.ask("GET", key)[5:])) == json.loads(text)
    assert find_all(client, image)["cached"] == "redis"


def test_namespaces_do_not_share_results(artifact, server, tmp_path, next_seed):
    names = {name: f"the key of the namespace {name}" for name in ("one", "two")}
    entries = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["embed", "segment", "admin"],
         "namespace": name}
        for name, key in names.items()
    ]  # fmt: skip
    (tmp_path / "keys.json").write_text(json.dumps(entries))
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_REDIS_URL": server.url,
        "EDGESAM_API_KEYS_FILE": str(tmp_path / "keys.json"),
        **LONG_REDIS_TIMEOUTS,
    }
    data = noise_file(SIZE, next_seed)
    with ServiceProcess(settings) as service, contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(open_client(service.url, headers={"X-API-Key": key})) for key in names.values())
        image = embed(one, data)
        assert find_all(one, image)["cached"] is None
        assert_problem(ask(two, image), EmbeddingNotFound)
        embed(two, data)
        assert find_all(two, image)["cached"] is None
        assert one.delete(f"/embed/{image}").status_code == 204
        assert find_all(two, image)["cached"] == "redis"


def test_without_redis_and_with_one_that_stops_requests_are_answered(artifact, client, next_seed):
    image = embed(client, noise_file(SIZE, next_seed))
    assert [find_all(client, image)["cached"] for _ in range(2)] == [None, None]

    with RedisServer() as stopping:
        settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": stopping.url}
        with ServiceProcess(settings) as service, open_client(service.url) as of_redis:
            image = embed(of_redis, noise_file(SIZE, next_seed))
            find_all(of_redis, image)
            stopping.pause()
            try:
                asked = [find_all(of_redis, image)["cached"] for _ in range(2)]
            finally:
                stopping.resume()

    assert asked == [None, None]


def test_results_are_not_kept_with_a_time_to_live_of_zero(artifact, next_seed):
    with RedisServer() as server:
        settings = {
            "EDGESAM_MODEL_DIR": str(artifact),
            "EDGESAM_REDIS_URL": server.url,
            "EDGESAM_EVERYTHING_TTL_S": "0",
        }
        with ServiceProcess(settings) as service, open_client(service.url) as client:
            image = embed(client, noise_file(SIZE, next_seed))
            assert [find_all(client, image)["cached"] for _ in range(2)] == [None, None]
            assert results_in(server) == []
