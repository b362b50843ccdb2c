"""The Deployment of overlays/cpu as a pod of `podman kube play`, with its security context enforced.

The tests take the place of the kubelet: they call the probes of the manifest and delete the pod.
"""

import io
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image
from support.image_builder import build, podman
from support.image_builder import why_not as why_no_image
from support.manifest_redis import manifest_redis, mounted, secrets_and_api_key, values_of
from support.manifests import bytes_of, container_of
from support.noise_images import noise_file
from support.redis_server import free_port, wait_until
from support.service_client import assert_problem, embed, open_client, point, segment

from service.errors import NotReady

MIB = 1 << 20
BASE_MIB = 560  # as in test_resources.py
START_S = 180.0
POD = "edgesam-pod-0"


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod.

    Attributes:
        container: Name of the service's container.
        url: Address of the service.
        metrics_url: Address of the metrics.
        deployment: Deployment of the manifests.
        api_key: Key that the service accepts.
    """

    container: str
    url: str
    metrics_url: str
    deployment: dict
    api_key: str

    def open_client(self) -> httpx.Client:
        """Return an HTTP client with the API key."""
        return open_client(self.url, headers={"X-API-Key": self.api_key})

    def probe(self, client: httpx.Client, kind: str) -> httpx.Response:
        """Call a probe of the manifest, for example `readinessProbe`."""
        asked = container_of(self.deployment)[kind]["httpGet"]
        assert asked["port"] == "http"
        return client.get(asked["path"])

    def inspect(self, template: str) -> str:
        """Return podman's data about the container, by a Go template."""
        return podman("inspect", "--format", template, self.container).stdout.strip()


def playable(manifests, *, image: str, redis_url: str, secrets: dict, folder: Path) -> tuple[str, int, int]:
    """Return the Deployment and its settings for a machine without a cluster, and the ports of the API and the metrics.

    Changed are the network and the ports, the image's name, and variables that a kubelet would set. Probes are removed,
    because podman would run them in the container, and timeouts are longer for slow machines. Secrets are folders of
    this machine, because podman 4.3 mounts the base64 text of a Secret.
    """
    (source,) = manifests.services()
    deployment = deepcopy(source)
    pod, container = deployment["spec"]["template"]["spec"], container_of(deployment)
    port, metrics_port = free_port(), free_port()
    environment = {**manifests.environment(source), "EDGESAM_REDIS_URL": redis_url}
    environment |= {"EDGESAM_HOST": "127.0.0.1", "EDGESAM_PORT": str(port), "EDGESAM_METRICS_PORT": str(metrics_port)}
    # Longer timeouts, because the machine may be busy.
    environment |= {"EDGESAM_EMBED_TIMEOUT_S": "120", "EDGESAM_SEGMENT_TIMEOUT_S": "120"}
    environment |= {"EDGESAM_REDIS_READ_TIMEOUT_S": "5", "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5"}
    settings = deepcopy(manifests.named("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]))
    settings["data"] = {name: environment[name] for name in settings["data"]}
    container["env"] = [{"name": one["name"], "value": environment[one["name"]]} for one in container["env"]]
    container |= {"image": image, "imagePullPolicy": "Never"}
    for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
        del container[key]
    folders = mounted(source, secrets, folder)
    paths = {mount["name"]: str(folders[mount["mountPath"]]) for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        if volume.pop("secret", None):
            volume["hostPath"] = {"path": paths[volume["name"]]}
    pod["hostNetwork"] = True
    return yaml.safe_dump_all([settings, deployment]), port, metrics_port


@pytest.fixture(scope="module")
def pod(every, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The pod, ready, with the Redis of the manifests."""
    if reason := why_no_image():
        pytest.skip(reason)
    manifests, folder = every["cpu"], tmp_path_factory.mktemp("pod")
    image = build("cpu")
    printed, api_key = secrets_and_api_key()
    secrets = values_of(printed)
    with manifest_redis(manifests.named("Deployment", "edgesam-redis"), secrets, folder) as redis_url:
        text, port, metrics_port = playable(
            manifests, image=image, redis_url=redis_url, secrets=secrets, folder=folder / "pod"
        )
        file = Path(folder) / "play.yaml"
        file.write_text(text)
        podman("kube", "play", str(file))
        try:
            names = podman("ps", "--all", "--format", "{{.Names}}").stdout.split()
            (container,) = [name for name in names if name == f"{POD}-edgesam"]
            urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
            playing = Pod(container, *urls, manifests.services()[0], api_key)
            with playing.open_client() as client:
                wait_until(lambda: is_started(playing, client), timeout_s=START_S, what="the pod did not start")
            yield playing
        finally:
            podman("pod", "rm", "--force", "--time", "0", POD, check=False)


def is_started(pod: Pod, client: httpx.Client) -> bool:
    """Return whether the startup probe succeeds."""
    assert pod.inspect("{{.State.Running}}") == "true", podman("logs", pod.container).stdout
    try:
        return pod.probe(client, "startupProbe").status_code == 200
    except httpx.TransportError:
        return False


def status_of(pod: Pod) -> dict[str, str]:
    """Return /proc/PID/status of the service."""
    lines = Path(f"/proc/{pod.inspect('{{.State.Pid}}')}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_security_context_is_enforced(pod):
    status = status_of(pod)
    written = podman("exec", pod.container, "python", "-c", "open('/etc/mine', 'w')", check=False)
    temporary = podman("exec", pod.container, "python", "-c", "open('/tmp/mine', 'w')", check=False)

    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "Read-only file system" in written.stderr
    assert temporary.returncode == 0, temporary.stderr
    assert int(pod.inspect("{{.HostConfig.Memory}}")) == bytes_of(
        container_of(pod.deployment)["resources"]["limits"]["memory"]
    )


def test_it_serves_with_redis_and_has_metrics_on_a_separate_port(pod):
    with pod.open_client() as client, open_client(pod.metrics_url) as metrics:
        image_hash = embed(client, noise_file((300, 400), seed=5))
        masks = segment(client, image_hash, point(200, 150))
        ready, live = pod.probe(client, "readinessProbe"), pod.probe(client, "livenessProbe")
        model = client.get("/models").json()["models"][0]

        assert masks[0]
        assert httpx.post(f"{pod.url}/embed", trust_env=False).status_code == 401
        assert ready.json()["redis"] == "ok"
        assert live.status_code == 200
        assert client.get("/metrics").status_code == 404
        assert "edgesam_in_flight" in metrics.get("/metrics").text
        assert model["threads"] == int(container_of(pod.deployment)["resources"]["requests"]["cpu"])
        assert model["decoder"].startswith("native")


def test_it_uses_no_more_memory_than_the_manifests_assume(pod):
    resident = int(status_of(pod)["VmRSS"].split()[0]) * 1024

    assert 100 * MIB < resident < BASE_MIB * MIB


def test_the_largest_image_is_read_within_the_limit(pod):
    gradient = Image.linear_gradient("L").resize((7000, 7100)).convert("RGBA")  # this kind needs most memory
    buffer = io.BytesIO()
    gradient.save(buffer, "PNG", compress_level=1)

    with pod.open_client() as client:
        answer = client.post("/embed", content=buffer.getvalue())

    assert answer.status_code == 200, answer.text
    assert pod.inspect("{{.State.Running}} {{.State.OOMKilled}}") == "true false"


def test_it_drains_and_ends_with_status_0(pod):
    """Has to be the last test of this file, because it stops the pod."""
    grace_s = pod.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    stopping = threading.Thread(target=podman, args=("pod", "stop", "--time", str(grace_s), POD))
    with pod.open_client() as client:
        image_hash = embed(client, noise_file((300, 400), seed=5))
        began_at = time.monotonic()
        stopping.start()
        wait_until(lambda: pod.probe(client, "readinessProbe").status_code == 503, timeout_s=30)

        refused = pod.probe(client, "readinessProbe")
        masks = segment(client, image_hash, point(200, 150))
        stopping.join(timeout=grace_s + 30)
        lasted_s = time.monotonic() - began_at

    assert_problem(refused, NotReady)
    assert masks[0]
    assert not stopping.is_alive()
    assert pod.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}") == "0 false"
    assert 10 <= lasted_s < grace_s
