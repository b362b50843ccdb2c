"""docker/compose.yaml: two replicas, a proxy and Redis in containers, with prompts during failures and updates.

`test_stopping_ends_every_container_with_status_0` stops the stack, so it runs after the tests that use it.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from support.clickers import Clickers
from support.compose_stack import ComposeStack
from support.image_builder import ROOT, podman
from support.redis_server import wait_until
from support.service_client import Scrape, embed, open_client, point, segment

COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
RULES = ROOT / "k8s/components/monitoring/rules.yaml"
PHOTO = (ROOT / "service/web/samples/dahlia.jpg").read_bytes()
REPLICAS = ("edgesam-a", "edgesam-b")
CLICKERS = 3
WAIT_S = 120.0


@pytest.fixture(scope="module")
def stack(cpu_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    services = [*REPLICAS, "proxy", "redis"]
    with ComposeStack(tmp_path_factory.mktemp("compose"), image=cpu_image, services=services) as running:
        yield running


def photo(name: str) -> bytes:
    """Return a JPEG with a hash of its own: decoders ignore the bytes after the end of the JPEG."""
    return PHOTO + name.encode()


def clicks_of(stack: ComposeStack, name: str) -> float:
    """Return the number of prompt requests that a replica has answered."""
    with httpx.Client(base_url=stack.metrics_url(name).removesuffix("/metrics"), trust_env=False) as client:
        return Scrape(client).value("edgesam_http_request_duration_seconds_count", route="/segment", status="200")


def embed_all(stack: ComposeStack, *names: str) -> list[str]:
    with open_client(stack.url) as client:
        return [embed(client, photo(name)) for name in names]


def test_a_replica_segments_images_that_another_has_embedded(stack: ComposeStack):
    with open_client(stack.replica_url("a")) as a, open_client(stack.replica_url("b")) as b:
        image_hash = embed(a, photo("shared"))
        known = b.head(f"/embed/{image_hash}")
        masks = segment(b, image_hash, point(270, 210))

    assert known.headers["X-Cache"] == "redis"
    assert masks[0][0]["area"] > 0


def test_redis_users_may_run_only_their_commands(stack: ComposeStack):
    def ask(user: str | None, password: str, *command: str) -> str:
        login = ["--user", user, "--pass", password, "--no-auth-warning"] if user else []
        client = ["redis-cli", "-p", str(stack.ports["redis"])]
        return podman("exec", stack.container("redis"), *client, *login, *command, check=False).stdout.strip()

    password = stack.secret("REDIS_PASSWORD")

    assert "NOAUTH" in ask(None, "", "PING")
    assert "NOAUTH" in ask("edgesam", "guess", "PING")
    assert "NOPERM" in ask("edgesam", password, "FLUSHALL")
    assert "NOPERM" in ask("edgesam", password, "GET", "other:key")
    assert "NOPERM" in ask("health", "none", "GET", "edgesam:key")
    assert "maxmemory" in ask("metrics", stack.secret("REDIS_METRICS_PASSWORD"), "INFO", "memory")


def test_redis_evicts_the_least_used_and_writes_nothing_to_disk(stack: ComposeStack):
    login = ["--user", "metrics", "--pass", stack.secret("REDIS_METRICS_PASSWORD"), "--no-auth-warning"]
    ask = ["exec", stack.container("redis"), "redis-cli", "-p", str(stack.ports["redis"]), *login, "--json"]
    settings = json.loads(podman(*ask, "CONFIG", "GET", "maxmemory*", "save", "appendonly").stdout)

    assert settings["maxmemory-policy"] == "allkeys-lfu"
    assert settings["maxmemory"] == str(512 << 20)
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"


def test_every_container_is_restricted_as_the_file_says(stack: ComposeStack):
    for service in (*REPLICAS, "proxy", "redis"):
        lines = podman("exec", stack.container(service), "cat", "/proc/1/status").stdout.splitlines()
        status = {line.split(":")[0]: line.split()[1:] for line in lines}
        host = stack.inspect(service)["HostConfig"]

        assert status["Uid"][0] != "0", service
        assert {int(status[kind][0], 16) for kind in ("CapPrm", "CapEff", "CapBnd")} == {0}, service
        assert status["NoNewPrivs"] == ["1"], service
        assert status["Seccomp"] == ["2"], service
        assert host["ReadonlyRootfs"], service
        assert host["PidsLimit"] == 256, service
        assert host["Memory"] == memory(COMPOSE["services"][service]["mem_limit"]), service


def memory(text: str) -> int:
    """Return the bytes of a size such as 64m or 2g."""
    return int(text[:-1]) << {"m": 20, "g": 30}[text[-1]]


def test_replicas_and_redis_are_healthy(stack: ComposeStack):
    probe = COMPOSE["services"]["redis"]["healthcheck"]["test"][1:]
    port = ["-p", str(stack.ports["redis"])]  # the tests use the host's network and another port than compose.yaml

    for name in REPLICAS:
        assert podman("healthcheck", "run", stack.container(name), check=False).returncode == 0
    assert podman("exec", stack.container("redis"), probe[0], *port, *probe[1:]).stdout.strip() == "PONG"


def test_all_prompts_on_an_image_go_to_one_replica(stack: ComposeStack):
    images = embed_all(stack, *(f"image {number}" for number in range(4)))

    for image_hash in images:
        before = {name: clicks_of(stack, name) for name in ("a", "b")}
        for _ in range(3):
            with open_client(stack.url, headers={"X-Image-Hash": image_hash}) as client:  # a new connection
                segment(client, image_hash, point(270, 210))
        answered = {name: clicks_of(stack, name) - before[name] for name in ("a", "b")}
        assert sorted(answered.values()) == [0, 3], (image_hash, answered)


def test_prompts_without_the_header_go_to_both_replicas(stack: ComposeStack):
    (image_hash,) = embed_all(stack, "both")
    before = {name: clicks_of(stack, name) for name in ("a", "b")}

    with open_client(stack.url) as client:
        for _ in range(8):
            segment(client, image_hash, point(270, 210))

    assert all(clicks_of(stack, name) - before[name] >= 2 for name in ("a", "b"))


def test_no_prompt_fails_when_a_replica_is_killed(stack: ComposeStack):
    images = embed_all(stack, *(f"killed {number}" for number in range(CLICKERS)))

    with Clickers(stack.url, images) as clickers:
        clickers.wait_for_more()
        os.kill(stack.inspect("edgesam-a")["State"]["Pid"], signal.SIGKILL)
        clickers.wait_for_more()
        stack.wait_until_ready("a")  # compose.yaml has `restart: unless-stopped`
        clickers.wait_for_more()

    assert clickers.failures == []
    # HAProxy does not repeat a request if the killed process has answered a part of it.
    assert clickers.cut <= CLICKERS


def test_no_prompt_and_no_upload_fails_during_an_update(stack: ComposeStack):
    """The upload takes longer than the proxy's timeout for headers, and a replica shuts down during it."""
    images = embed_all(stack, *(f"rolled {number}" for number in range(CLICKERS)))
    uploaded: list[httpx.Response] = []
    finish = threading.Event()

    def body() -> Iterator[bytes]:
        data = photo("slowly")
        begun = time.monotonic()
        for at in range(0, len(data), 1 << 14):
            yield data[at : at + (1 << 14)]
            finish.wait(12 * (1 << 14) / len(data))
        assert time.monotonic() - begun > 11

    def upload() -> None:
        with open_client(stack.url) as client:
            uploaded.append(client.post("/embed", content=body()))

    sending = threading.Thread(target=upload)
    with Clickers(stack.url, images) as clickers:
        sending.start()
        for name in REPLICAS:
            clickers.wait_for_more()
            stack.recreate(name)
        clickers.wait_for_more()
    sending.join(WAIT_S)

    assert clickers.failures == []
    assert clickers.cut == 0
    assert [response.status_code for response in uploaded] == [200]


def test_without_a_ready_replica_the_proxy_answers_with_a_problem(stack: ComposeStack):
    podman("pause", *(stack.container(name) for name in REPLICAS))
    try:
        wait_until(lambda: not any(stack.is_up(name) for name in ("a", "b")), timeout_s=20, what="still up")
        response = httpx.get(f"{stack.url}/models", trust_env=False, timeout=20)
    finally:
        podman("unpause", *(stack.container(name) for name in REPLICAS))

    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "2"
    assert response.json()["code"] == "no-replica"
    for name in ("a", "b"):
        stack.wait_until_ready(name)


@pytest.mark.skipif(not RULES.exists(), reason=f"there is no {RULES.name} yet")
def test_prometheus_scrapes_all_targets_and_knows_rules_and_alertmanager(stack: ComposeStack):
    stack.compose("up", "-d", "--no-deps", "redis-exporter", "alertmanager", "prometheus")
    address = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1"

    def ask(what: str) -> dict:
        try:
            return dict(httpx.get(f"{address}/{what}", trust_env=False).json()["data"])
        except (httpx.TransportError, ValueError):
            return {}

    def jobs_up() -> list[str]:
        targets = ask("targets?state=active").get("activeTargets", [])
        return sorted(target["labels"]["job"] for target in targets if target["health"] == "up")

    expected = ["edgesam", "edgesam", "edgesam-proxy", "edgesam-redis"]
    wait_until(lambda: jobs_up() == expected, timeout_s=WAIT_S, what="Prometheus does not reach all targets")
    groups = {group["name"] for group in ask("rules")["groups"]}
    redis_up = ask("query?query=redis_up")["result"]
    wait_until(
        lambda: bool(ask("alertmanagers").get("activeAlertmanagers")),
        timeout_s=WAIT_S,
        what="no Alertmanager is active",
    )
    told = httpx.get(f"http://127.0.0.1:{stack.ports['alertmanager']}/api/v2/status", trust_env=False).json()

    assert groups == {group["name"] for group in yaml.safe_load(RULES.read_text())["groups"]}
    assert [sample["value"][1] for sample in redis_up] == [
        "1"
    ]  # the exporter's user has all the permissions that it needs
    assert "EdgesamRefusesWork" in told["config"]["original"]


@pytest.mark.parametrize("name", ["datasources", "dashboards"])
def test_grafanas_configuration_names_mounted_paths_and_prometheus(name: str):
    """Grafana itself is not run, because no package of it is available."""
    given = yaml.safe_load((ROOT / f"docker/grafana/{name}.yaml").read_text())
    mounted = [volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"]]

    assert given["apiVersion"] == 1
    assert [f"./grafana/{name}.yaml", f"/etc/grafana/provisioning/{name}/edgesam.yaml"] in mounted
    for provider in given.get("providers", []):
        assert provider["options"]["path"] in {inside for _, inside in mounted}
    for source in given.get("datasources", []):
        assert source["url"] == "http://prometheus:9090"


def test_the_grace_period_is_longer_than_a_shutdown():
    service = COMPOSE["services"]["edgesam-a"]
    settings = service["environment"]
    grace_s = int(service["stop_grace_period"].removesuffix("s"))

    assert grace_s >= float(settings["EDGESAM_DRAIN_S"]) + float(settings["EDGESAM_GRACEFUL_TIMEOUT_S"]) + 5


def test_stopping_ends_every_container_with_status_0(stack: ComposeStack):
    stack.compose("stop")

    states = {name: stack.inspect(name)["State"] for name in (*REPLICAS, "proxy", "redis")}

    assert {name: state["ExitCode"] for name, state in states.items()} == dict.fromkeys(states, 0)
    assert not any(state["OOMKilled"] for state in states.values())


def test_compose_refuses_to_start_without_secrets(tmp_path: Path):
    path = tmp_path / "compose.yaml"
    path.write_text((ROOT / "docker/compose.yaml").read_text())
    command = ["podman-compose", "-f", str(path), "config"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "run docker/make-secrets first" in done.stdout + done.stderr


def test_secrets_are_created_once_and_readable_by_their_owner_only(tmp_path: Path):
    script = tmp_path / "make-secrets"
    script.write_text((ROOT / "docker/make-secrets").read_text())

    def run() -> int:
        return subprocess.run(["sh", str(script)], capture_output=True, check=False).returncode

    assert run() == 0
    made = (tmp_path / ".env").read_text()
    assert run() == 1
    assert (tmp_path / ".env").read_text() == made
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    passwords = [line.split("=", 1)[1] for line in made.splitlines()]
    assert len(set(passwords)) == len(passwords) == 3
    assert not any(password in (tmp_path / "secrets/users.acl").read_text() for password in passwords)
