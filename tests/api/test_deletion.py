"""Deleting an image on one replica removes it from all replicas: from memory and from running work."""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess
from tools.faults.proxy import Proxy

from service.cache.redis.deletions import CHANNEL
from service.errors import EmbeddingNotFound, MaskNotFound

WAIT_S = 60.0
LISTENS = "subscribed to the deletions of other replicas"
LISTENS_NOT = f"not {LISTENS}"
RIGHTS = (
    "~edgesam:* ~lock:* resetchannels -@all "
    "+get +getex +getrange +set +unlink +exists +pexpire +eval +publish +subscribe +ping"
)
LONG_REDIS_TIMEOUTS = {
    "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
    "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
    "EDGESAM_REDIS_BREAKER_OPEN_S": "0.05",
}


class Replicas:
    """Several services on one Redis, and clients of them."""

    def __init__(self, stack, settings, urls, roles=("all", "all")):
        self.services = [
            stack.enter_context(
                ServiceProcess({**LONG_REDIS_TIMEOUTS, **settings, "EDGESAM_REDIS_URL": url, "EDGESAM_ROLE": role})
            )
            for url, role in zip(urls, roles, strict=True)
        ]
        self._stack = stack

    def clients(self, key=None):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return [self._stack.enter_context(open_client(one.url, headers=headers)) for one in self.services]

    def all_listen(self, times=1):
        for service in self.services:
            says(service, LISTENS, times)


def says(service, start, times=1):
    """Wait until the log has this number of lines with this beginning."""
    wait_until(
        lambda: sum(line["event"].startswith(start) for line in list(service.log)) >= times,
        timeout_s=WAIT_S,
        what=f"{start!r} is not in the log",
    )


@pytest.fixture
def server():
    with RedisServer() as running:
        yield running


@pytest.fixture
def open_replicas(artifact):
    with contextlib.ExitStack() as stack:

        def open_(*urls, settings=None, **options):
            """Start two replicas; `urls` has one Redis address for both, or one for each."""
            urls = urls if len(urls) == 2 else urls * 2
            return Replicas(stack, {"EDGESAM_MODEL_DIR": str(artifact), **(settings or {})}, urls, **options)

        yield open_


def in_memory(client, image_hash, *, multimask=1):
    """Send a click, so that the replica has the image in memory; return the masks."""
    (masks,) = segment(client, image_hash, point(20, 20), multimask=multimask)
    return masks


def click(client, image_hash, **prompt):
    return client.post("/segment", json={"image_hash": image_hash, "prompts": [{**point(20, 20), **prompt}]})


def wait_until_removed(client, image_hash):
    """Wait until the replica has dropped the image. Then neither a click nor HEAD finds it."""
    wait_until(lambda: click(client, image_hash).status_code == 404, timeout_s=WAIT_S)
    assert_problem(click(client, image_hash), EmbeddingNotFound)
    assert client.head(f"/embed/{image_hash}").status_code == 404


def values_in(server):
    """Return the keys of embeddings, the keys of masks, and the tombstones in Redis."""
    # The tombstone of an image with all its variants stays for its time to live, as the record of all models does.
    kept = (b"edgesam:deleted-all:", b"edgesam:models")
    keys = [key.decode() for key in server.ask("KEYS", "edgesam:*") if not key.startswith(kept)]
    masks = [key for key in keys if ":mask:" in key]
    marks = [key for key in keys if key.startswith("edgesam:deleted:")]
    return sorted(set(keys) - set(masks) - set(marks)), masks, marks


def test_deleted_on_one_replica_an_image_and_its_masks_are_removed_from_all(open_replicas, server, next_seed):
    replicas = open_replicas(server.url)
    first, second = replicas.clients()
    replicas.all_listen()
    data = noise_file((43, 53), next_seed)
    image_hash = embed(first, data)
    (mask,) = in_memory(second, image_hash)
    wait_until(lambda: values_in(server)[1], timeout_s=WAIT_S)

    assert first.delete(f"/embed/{image_hash}").status_code == 204

    wait_until_removed(second, image_hash)
    wait_until(lambda: values_in(server)[:2] == ([], []), timeout_s=WAIT_S)
    assert_problem(first.delete(f"/embed/{image_hash}"), EmbeddingNotFound)
    # The image can be uploaded again.
    assert second.post("/embed", content=data).json()["cached"] is None
    assert_problem(click(second, image_hash, mask_id=mask["mask_id"]), MaskNotFound)
    assert in_memory(first, image_hash)[0]["mask_id"] == mask["mask_id"]
    assert values_in(server)[2] == []


def test_a_replica_with_role_segment_receives_deletions(open_replicas, server, next_seed):
    replicas = open_replicas(server.url, roles=("embed", "segment"))
    embeds, segments = replicas.clients()
    replicas.all_listen()
    image_hash = embed(embeds, noise_file((43, 53), next_seed))
    in_memory(segments, image_hash)

    assert embeds.delete(f"/embed/{image_hash}").status_code == 204

    wait_until_removed(segments, image_hash)
    assert values_in(server)[0] == []


def test_a_deletion_leaves_the_image_in_other_namespaces(open_replicas, server, tmp_path, next_seed):
    path = tmp_path / "keys.json"
    keys = {name: f"esk_the-key-called-{name}-0123456789" for name in ("a", "b")}
    entries = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["admin"]}
        for name, key in keys.items()
    ]
    path.write_text(json.dumps(entries))
    replicas = open_replicas(server.url, settings={"EDGESAM_API_KEYS_FILE": str(path)})
    replicas.all_listen()
    data = noise_file((43, 53), next_seed)
    (first, second), (_, other) = replicas.clients(keys["a"]), replicas.clients(keys["b"])
    image_hash = embed(first, data)
    embed(other, data)
    in_memory(second, image_hash)

    assert first.delete(f"/embed/{image_hash}").status_code == 204

    wait_until_removed(second, image_hash)
    assert other.head(f"/embed/{image_hash}").headers["x-cache"] == "memory"
    in_memory(other, image_hash)


def test_images_deleted_while_a_replica_was_cut_off_are_removed_after_reconnecting(open_replicas, server, next_seed):
    with Proxy(server.port) as way:
        replicas = open_replicas(server.url, f"redis://127.0.0.1:{way.port}")
        (first, second), (_, cut_off) = replicas.clients(), replicas.services
        replicas.all_listen()
        deleted, lost = (embed(second, noise_file((43, 53), next_seed + number)) for number in range(2))

        way.refuse()
        says(cut_off, LISTENS_NOT)
        assert first.delete(f"/embed/{deleted}").status_code == 204
        server.ask("UNLINK", *(key for key in values_in(server)[0] if key.endswith(lost)))
        assert click(second, deleted).status_code == 200  # the second replica was cut off
        way.accept()
        says(cut_off, LISTENS, times=2)

        wait_until_removed(second, deleted)
        assert click(second, lost).status_code == 200
        assert second.head(f"/embed/{lost}").headers["x-cache"] == "memory"
        assert [key.rpartition(":")[2] for key in values_in(server)[0]] == [lost]


def test_images_uploaded_to_a_cut_off_replica_are_shared_after_reconnecting(open_replicas, server, next_seed):
    with Proxy(server.port) as way:
        replicas = open_replicas(server.url, f"redis://127.0.0.1:{way.port}")
        (first, second), (_, cut_off) = replicas.clients(), replicas.services
        replicas.all_listen()
        before, after = (noise_file((43, 53), next_seed + number) for number in range(2))
        deleted_before = embed(first, before)
        assert first.delete(f"/embed/{deleted_before}").status_code == 204

        way.refuse()
        says(cut_off, LISTENS_NOT)
        assert second.post("/embed", content=before).json()["cached"] is None
        deleted_after = embed(second, after)
        first.delete(f"/embed/{deleted_after}")
        way.accept()
        says(cut_off, LISTENS, times=2)

        wait_until_removed(second, deleted_after)
        wait_until(lambda: click(first, deleted_before).status_code == 200, timeout_s=WAIT_S)
        assert second.head(f"/embed/{deleted_before}").headers["x-cache"] == "memory"
        keys, _, marks = values_in(server)
        assert [key.rpartition(":")[2] for key in keys] == [deleted_before]
        assert [deleted_after in mark for mark in marks] == [True]


def test_after_a_restart_of_redis_memory_is_kept_and_deletions_are_received(open_replicas, server, next_seed):
    replicas = open_replicas(server.url)
    first, second = replicas.clients()
    replicas.all_listen()
    image_hash = embed(second, noise_file((43, 53), next_seed))

    server.restart()
    replicas.all_listen(times=2)
    wait_until(lambda: second.head(f"/embed/{image_hash}").headers.get("x-cache") == "memory", timeout_s=WAIT_S)
    wait_until(lambda: first.delete(f"/embed/{image_hash}").status_code == 204, timeout_s=WAIT_S)

    wait_until_removed(second, image_hash)


def test_an_upload_in_progress_on_another_replica_does_not_restore_a_deleted_image(open_replicas, server, next_seed):
    replicas = open_replicas(server.url)
    first, second = replicas.clients()
    replicas.all_listen()
    data, other = noise_file((43, 53), next_seed), noise_file((44, 54), next_seed)
    image_hash, sign = hashlib.sha256(data).hexdigest(), embed(second, other)
    key = values_in(server)[0][0].replace(sign, image_hash)
    server.ask("SET", f"lock:{key}", "of a replica that encodes it", "PX", 600_000)
    server.ask("CONFIG", "RESETSTAT")  # storing the other image has used EXISTS as well

    with ThreadPoolExecutor(1) as threads:
        uploading = threads.submit(second.post, "/embed", content=data)
        wait_until(lambda: waits_for_lock(server), timeout_s=WAIT_S, what="the upload does not wait")
        first.delete(f"/embed/{image_hash}")
        first.delete(f"/embed/{sign}")
        wait_until_removed(second, sign)  # so the deletion before it was received as well
        server.ask("UNLINK", f"lock:{key}")
        answer = uploading.result(WAIT_S)

    assert answer.status_code == 200
    assert_problem(click(second, image_hash), EmbeddingNotFound)
    assert values_in(server)[0] == []


def waits_for_lock(server):
    """Return whether a replica waits for the value of another one. No other code has sent EXISTS by then."""
    return "cmdstat_exists" in server.ask("INFO", "commandstats")


def test_without_the_right_to_publish_a_deletion_is_found_later_and_no_request_fails(open_replicas, next_seed):
    with RedisServer(acl=[f"user edgesam on >pw {RIGHTS}"]) as server:
        replicas = open_replicas(f"redis://edgesam:pw@127.0.0.1:{server.port}")
        first, second = replicas.clients()
        image_hash = embed(first, noise_file((43, 53), next_seed))
        in_memory(second, image_hash)

        assert first.delete(f"/embed/{image_hash}").status_code == 204

        assert first.get("/readyz").json()["redis"] == "ok"
        assert click(second, image_hash).status_code == 200
        assert second.head(f"/embed/{image_hash}").status_code == 404  # HEAD looks in Redis
        assert_problem(click(second, image_hash), EmbeddingNotFound)
        assert values_in(server)[0] == []
        says(replicas.services[0], LISTENS_NOT)
        warnings = [line for line in replicas.services[0].log if line.get("logger", "").startswith("service.cache")]
        assert [line["level"] for line in warnings] == ["warning", "warning"]


def test_garbage_on_the_channel_deletes_no_image(open_replicas, server, next_seed):
    replicas = open_replicas(server.url)
    first, second = replicas.clients()
    replicas.all_listen()
    image_hash = embed(first, noise_file((43, 53), next_seed))
    in_memory(second, image_hash)
    (key,) = values_in(server)[0]
    near = [key[:-1], f"{key}0", f"{key}:mask:0", key.upper(), f"{key}\n", key.replace(":2:", ":3:"), "*", image_hash]
    near.append(f"edgesam:variant:{{{key}}}~levels=auto")

    for garbage in (b"", bytes(range(256)), b"x" * 2**20, key.encode(), *(f"x {text}".encode() for text in near)):
        server.ask("PUBLISH", CHANNEL, garbage)
    other = embed(second, noise_file((44, 54), next_seed))
    assert first.delete(f"/embed/{other}").status_code == 204
    wait_until_removed(second, other)  # so all earlier messages were received

    assert second.head(f"/embed/{image_hash}").headers["x-cache"] == "memory"
    assert [[line["event"] for line in service.log].count(LISTENS) for service in replicas.services] == [1, 1]
