"""Copies of uploads in Redis: regions without a second upload, deletion, namespaces, expiry, and a Redis that fails."""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import assert_problem, open_client
from support.service_process import ServiceProcess

from service.errors import CacheUnavailable, ImageNotKept

WAIT_S = 60.0
REGION = "10,5,70,45"
SETTINGS = {
    "EDGESAM_KEEP_IMAGES_S": "300",
    "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
    "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
    "EDGESAM_REDIS_BREAKER_OPEN_S": "0.05",
}


@pytest.fixture(scope="module")
def server():
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def open_replicas(artifact):
    """A function that starts replicas with the same Redis, and returns a client of each."""
    with contextlib.ExitStack() as stack:

        def open_(url, *settings, key=None):
            common = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": url, **SETTINGS}
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            services = [stack.enter_context(ServiceProcess({**common, **each})) for each in settings]
            return [stack.enter_context(open_client(service.url, headers=headers)) for service in services]

        yield open_


@pytest.fixture(scope="module")
def replicas(open_replicas, server):
    return open_replicas(server.url, {}, {})


def embedded(client, data, **query):
    response = client.post("/embed", content=data, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def kept(client, image_hash, region=REGION, **query):
    return client.post("/embed", params={"image_hash": image_hash, "region": region, **query})


def copies(server):
    return [key for key in server.ask("KEYS", "edgesam:*:kept:*") if not key.startswith(b"edgesam:deleted")]


def logits(client, image_id):
    body = {"image_hash": image_id, "prompts": [{"points": [[40, 25]]}], "format": "logits"}
    response = client.post("/segment", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def test_a_region_is_embedded_by_any_replica_without_a_second_upload(replicas, server, next_seed):
    first, second = replicas
    data = noise_file((60, 90), next_seed)
    digest = embedded(first, data)["image_hash"]

    answer = kept(second, digest).json()
    again = embedded(first, data, region=REGION)

    assert (answer["image_id"], answer["cached"]) == (f"{digest}~region={REGION}", None)
    assert (answer["width"], answer["height"], answer["region"]) == (90, 60, [10, 5, 70, 45])
    assert (again["image_id"], again["cached"]) == (answer["image_id"], "redis")
    assert logits(first, answer["image_id"]) == logits(second, answer["image_id"])
    assert second.get("/models").json()["models"][0]["features"]["keeps_images"] == 300


def test_the_whole_image_and_other_readings_come_from_the_copy_too(replicas, server, next_seed):
    first, second = replicas
    data = noise_file((60, 90), next_seed)
    digest = embedded(first, data, region=REGION)["image_hash"]

    whole = kept(second, digest, region="0,0,90,60").json()
    levels = second.post("/embed", params={"image_hash": f"{digest}~levels=minmax"}).json()

    assert (whole["image_id"], whole["region"]) == (digest, None)
    assert (levels["image_id"], levels["levels"]) == (f"{digest}~levels=minmax", "minmax")


def test_neither_the_copy_nor_a_region_outlives_the_deletion_of_the_image(replicas, server, next_seed):
    first, second = replicas
    data = noise_file((60, 90), next_seed)
    digest = embedded(first, data)["image_hash"]
    region = kept(second, digest).json()["image_id"]

    assert second.delete(f"/embed/{digest}").status_code == 204

    assert_problem(kept(first, digest), ImageNotKept)
    assert_problem(kept(second, digest), ImageNotKept)
    wait_until(lambda: first.head(f"/embed/{region}").status_code == 404, timeout_s=WAIT_S)
    assert second.head(f"/embed/{region}").status_code == 404
    assert not [key for key in copies(server) if key.endswith(digest.encode())]
    assert embedded(first, data)["cached"] is None  # and a later upload is kept anew
    assert kept(second, digest).status_code == 200


def test_the_deletion_of_a_region_leaves_the_copy(replicas, server, next_seed):
    first, second = replicas
    digest = embedded(first, noise_file((60, 90), next_seed))["image_hash"]
    region = kept(first, digest).json()["image_id"]

    assert first.delete(f"/embed/{region}").status_code == 204

    assert kept(second, digest, region="0,0,40,40").status_code == 200


def test_an_upload_that_began_before_a_deletion_leaves_no_copy(replicas, server, next_seed):
    first, second = replicas
    data, other = noise_file((60, 90), next_seed), noise_file((61, 91), next_seed)
    digest, sign = hashlib.sha256(data).hexdigest(), embedded(second, other)["image_hash"]
    keys = [key.decode() for key in server.ask("KEYS", "edgesam:2:*") if key.endswith(sign.encode())]
    (key,) = [key.replace(sign, digest) for key in keys if ":kept:" not in key]
    server.ask("SET", f"lock:{key}", "of a replica that encodes it", "PX", 600_000)
    server.ask("CONFIG", "RESETSTAT")

    with ThreadPoolExecutor(1) as threads:
        uploading = threads.submit(second.post, "/embed", content=data)
        wait_until(lambda: b"cmdstat_exists" in _stats(server), timeout_s=WAIT_S, what="the upload does not wait")
        first.delete(f"/embed/{digest}")
        server.ask("UNLINK", f"lock:{key}")
        assert uploading.result().status_code == 200

    assert not [key for key in copies(server) if key.endswith(digest.encode())]
    assert_problem(kept(first, digest), ImageNotKept)


def _stats(server):
    return " ".join(map(str, server.ask("INFO", "commandstats"))).encode()


def test_use_does_not_extend_the_life_of_a_copy_and_an_upload_does(replicas, server, next_seed):
    first, second = replicas
    data = noise_file((60, 90), next_seed)
    digest = embedded(first, data)["image_hash"]
    (key,) = [key for key in copies(server) if key.endswith(digest.encode())]
    assert 0 < server.ask("PTTL", key) <= 300_000

    server.ask("PEXPIRE", key, 100_000)
    assert kept(second, digest).status_code == 200
    assert server.ask("PTTL", key) <= 100_000
    embedded(second, data)
    assert 100_000 < server.ask("PTTL", key) <= 300_000


def test_other_bytes_under_the_key_of_a_copy_are_removed(replicas, server, next_seed):
    first, _ = replicas
    digest = embedded(first, noise_file((60, 90), next_seed))["image_hash"]
    (key,) = [key for key in copies(server) if key.endswith(digest.encode())]
    server.ask("SET", key, noise_file((60, 90), next_seed + 1))

    assert_problem(kept(first, digest), ImageNotKept)
    assert server.ask("EXISTS", key) == 0


def test_an_image_that_is_refused_is_not_kept(replicas, server):
    data = noise_file((60, 90), 1)[:-40]

    assert replicas[0].post("/embed", content=data).status_code == 422

    digest = hashlib.sha256(data).hexdigest()
    assert not [key for key in copies(server) if key.endswith(digest.encode())]


def test_a_copy_is_found_in_its_namespace_alone(open_replicas, server, tmp_path, next_seed):
    path = tmp_path / "keys.json"
    names = {name: f"esk_the-key-called-{name}-0123456789" for name in ("a", "b")}
    path.write_text(
        json.dumps(
            [
                {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["admin"]}
                for name, key in names.items()
            ]
        )
    )
    (client,) = open_replicas(server.url, {"EDGESAM_API_KEYS_FILE": str(path)})
    data = noise_file((60, 90), next_seed)
    one, other = ({"Authorization": f"Bearer {key}"} for key in names.values())
    digest = client.post("/embed", content=data, headers=one).json()["image_hash"]

    asked = {"image_hash": digest, "region": REGION}
    foreign = client.post("/embed", params=asked, headers=other)
    deleted = client.delete(f"/embed/{digest}", headers=other)
    own = client.post("/embed", params=asked, headers=one)

    assert_problem(foreign, ImageNotKept)
    assert (deleted.status_code, own.status_code) == (404, 200)


def test_a_replica_that_keeps_no_images_deletes_the_copies_of_others(replicas, open_replicas, server, next_seed):
    (plain,) = open_replicas(server.url, {"EDGESAM_KEEP_IMAGES_S": "0"})
    digest = embedded(replicas[0], noise_file((60, 90), next_seed))["image_hash"]

    assert_problem(kept(plain, digest), ImageNotKept)
    assert plain.delete(f"/embed/{digest}").status_code == 204

    assert not [key for key in copies(server) if key.endswith(digest.encode())]


def test_without_redis_an_upload_is_embedded_and_a_copy_is_not_found(open_replicas, next_seed):
    with RedisServer() as server:
        (client,) = open_replicas(server.url, {})
        data = noise_file((60, 90), next_seed)
        digest = embedded(client, data)["image_hash"]
        region = kept(client, digest).json()["image_id"]

        server.kill()

        problem = assert_problem(kept(client, digest, region="0,0,40,40"), CacheUnavailable)
        assert problem["detail"]
        assert embedded(client, data, region="0,0,50,50")["cached"] is None
        assert kept(client, digest).json()["image_id"] == region  # from memory


def test_a_full_redis_costs_the_copy_and_not_the_upload(open_replicas, next_seed):
    with RedisServer(arguments=["--maxmemory-policy noeviction"]) as server:
        (client,) = open_replicas(server.url, {})
        server.ask("CONFIG", "SET", "maxmemory", "100kb")  # less than an empty server takes

        digest = embedded(client, noise_file((60, 90), next_seed))["image_hash"]

        assert_problem(kept(client, digest), ImageNotKept)
