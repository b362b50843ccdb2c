"""A service with a disk cache keeps embeddings over restarts, and without Redis or after Redis lost everything."""

import contextlib
import hashlib
import json
import shutil
import signal

import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import Scrape, assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.errors import EmbeddingNotFound

WAIT_S = 60.0


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "embeddings"


@pytest.fixture
def start(artifact, folder):
    """A function that starts a service with a disk cache, and returns the process and a client of it."""
    with contextlib.ExitStack() as stack:

        def start_(**settings):
            base = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_DISK_CACHE_DIR": str(folder)}
            service = stack.enter_context(ServiceProcess({**base, **settings}))
            return service, stack.enter_context(open_client(service.url))

        yield start_


@pytest.fixture
def own_redis():
    """A Redis of this test alone, which may lose everything."""
    with RedisServer() as server:
        yield server


def encodes(client):
    return Scrape(client).value("edgesam_stage_duration_seconds_count", stage="encode")


def files(folder):
    return sorted(folder.glob("??/*.embedding"))


def image_hash_of(data):
    return hashlib.sha256(data).hexdigest()


def test_after_a_restart_without_redis_no_image_is_encoded(start, next_seed):
    data = noise_file((40, 50), next_seed)
    service, client = start()
    image_hash = embed(client, data)
    masks = segment(client, image_hash, point(20, 20), format="logits")
    service.stop()

    _, client = start()

    assert client.head(f"/embed/{image_hash}").headers["x-cache"] == "disk"
    assert segment(client, image_hash, point(20, 20), format="logits") == masks
    assert client.post("/embed", content=data).json()["cached"] == "memory"
    assert encodes(client) == 0


def test_an_answered_upload_outlives_a_killed_process(start, next_seed):
    data = noise_file((41, 50), next_seed)
    service, client = start()
    embed(client, data)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(timeout=WAIT_S)

    _, client = start()

    assert client.post("/embed", content=data).json()["cached"] == "disk"
    assert Scrape(client).value("edgesam_cache_lookups_total", tier="disk", outcome="hit") == 1
    assert encodes(client) == 0


def test_a_deleted_image_is_not_found_after_a_restart(start, folder, next_seed):
    service, client = start()
    image_hash = embed(client, noise_file((42, 50), next_seed))
    kept = embed(client, noise_file((43, 50), next_seed))
    assert client.delete(f"/embed/{image_hash}").status_code == 204
    assert len(files(folder)) == 1
    service.stop()

    _, client = start()

    assert client.head(f"/embed/{image_hash}").status_code == 404
    assert client.head(f"/embed/{kept}").status_code == 200


def test_an_image_that_only_the_disk_has_is_deleted_with_its_regions(start, folder, next_seed):
    data = noise_file((80, 90), next_seed)
    service, client = start()
    image_hash = embed(client, data)
    assert client.post("/embed?region=10,10,60,60", content=data).status_code == 200
    assert len(files(folder)) == 2
    service.stop()
    _, client = start()

    assert client.delete(f"/embed/{image_hash}").status_code == 204

    assert files(folder) == []
    assert client.delete(f"/embed/{image_hash}").status_code == 404


def test_after_redis_lost_everything_no_image_is_encoded(start, own_redis, next_seed):
    data = noise_file((44, 50), next_seed)
    settings = {"EDGESAM_REDIS_URL": own_redis.url}
    service, client = start(**settings)
    image_hash = embed(client, data)
    service.stop()
    own_redis.ask("FLUSHALL")
    _, client = start(**settings)

    segment(client, image_hash, point(20, 20))

    assert encodes(client) == 0
    _, second = start(**settings, EDGESAM_DISK_CACHE_DIR="")  # Redis has it again, for the other replicas
    assert second.post("/embed", content=data).json()["cached"] == "redis"


def test_an_image_that_was_deleted_while_a_replica_was_off_does_not_come_back(start, own_redis, folder, next_seed):
    data = noise_file((45, 50), next_seed)
    settings = {"EDGESAM_REDIS_URL": own_redis.url}
    service, client = start(**settings)
    image_hash = embed(client, data)
    wait_until(lambda: own_redis.ask("EXISTS", "edgesam:disk-tiers") == 1, timeout_s=WAIT_S, what="no announcement")
    service.stop()
    _, other = start(**settings, EDGESAM_DISK_CACHE_DIR="")
    assert other.delete(f"/embed/{image_hash}").status_code == 204
    assert len(files(folder)) == 1

    _, client = start(**settings)

    assert_problem(
        client.post("/segment", json={"image_hash": image_hash, "prompts": [point(20, 20)]}), EmbeddingNotFound
    )
    wait_until(lambda: not files(folder), timeout_s=WAIT_S, what="the file is still there")


def test_a_replica_that_loads_an_image_from_redis_keeps_it_on_its_disk(start, own_redis, tmp_path, next_seed):
    data = noise_file((46, 50), next_seed)
    settings = {"EDGESAM_REDIS_URL": own_redis.url}
    _, first = start(**settings)
    image_hash = embed(first, data)
    second_folder = tmp_path / "second"
    _, second = start(**settings, EDGESAM_DISK_CACHE_DIR=str(second_folder), EDGESAM_ROLE="segment")

    segment(second, image_hash, point(20, 20))

    wait_until(lambda: len(files(second_folder)) == 1, timeout_s=WAIT_S, what="no copy")
    assert first.delete(f"/embed/{image_hash}").status_code == 204
    wait_until(lambda: not files(second_folder), timeout_s=WAIT_S, what="the copy is still there")


def test_two_processes_share_a_folder(start, folder, next_seed):
    data = noise_file((47, 50), next_seed)
    _, first = start()
    _, second = start()

    image_hash = embed(first, data)

    assert second.post("/embed", content=data).json()["cached"] == "disk"
    assert encodes(second) == 0
    assert first.delete(f"/embed/{image_hash}").status_code == 204
    assert files(folder) == []


def test_namespaces_are_apart_on_disk(start, tmp_path, folder, next_seed):
    keys = {name: f"key of {name}, which is long" for name in ("one", "two")}
    key_file = tmp_path / "keys.json"
    key_file.write_text(json.dumps([entry_of(name, key) for name, key in keys.items()]))
    data = noise_file((48, 50), next_seed)
    service, client = start(EDGESAM_API_KEYS_FILE=str(key_file))
    answer = client.post("/embed", content=data, headers=bearer(keys["one"]))
    assert answer.status_code == 200
    service.stop()

    _, client = start(EDGESAM_API_KEYS_FILE=str(key_file))

    path = f"/embed/{image_hash_of(data)}"
    assert client.head(path, headers=bearer(keys["two"])).status_code == 404
    assert client.delete(path, headers=bearer(keys["two"])).status_code == 404
    assert client.head(path, headers=bearer(keys["one"])).status_code == 200
    assert not any(b"one" in file.name.encode() for file in files(folder))


def entry_of(name, key):
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["admin"]}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_folder_that_vanishes_costs_no_request(start, folder, next_seed):
    service, client = start()
    first = embed(client, noise_file((49, 50), next_seed))
    shutil.rmtree(folder.parent)

    second = embed(client, noise_file((50, 51), next_seed))

    assert segment(client, first, point(20, 20))
    assert segment(client, second, point(20, 20))
    assert len(files(folder)) == 1
    assert service.process.poll() is None


def test_a_folder_that_cannot_be_created_stops_the_start(artifact, tmp_path):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "embeddings"

    with (
        pytest.raises(AssertionError, match="EDGESAM_DISK_CACHE_DIR"),
        ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_DISK_CACHE_DIR": str(path)}),
    ):
        pass
