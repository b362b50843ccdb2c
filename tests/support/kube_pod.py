"""The Deployment of manifests as a pod of `podman kube play`."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from support.image_builder import build, podman
from support.manifest_redis import mounted
from support.manifests import Manifest, Manifests, container_of
from support.redis_server import free_port, wait_until
from support.service_client import open_client

POD = "edgesam-pod-0"
_START_S = 180.0


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
    deployment: Manifest
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


def _playable(
    manifests: Manifests, *, redis_url: str, secrets: dict[str, dict[str, str]], folder: Path
) -> tuple[str, int, int]:
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
    environment |= dict.fromkeys((f"EDGESAM_{work}_TIMEOUT_S" for work in ("EMBED", "SEGMENT", "EVERYTHING")), "120")
    environment |= {"EDGESAM_REDIS_READ_TIMEOUT_S": "5", "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5"}
    settings = deepcopy(manifests.named("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]))
    settings["data"] = {name: environment[name] for name in settings["data"]}
    container["env"] = [{"name": one["name"], "value": environment[one["name"]]} for one in container["env"]]
    container |= {"image": build("cpu"), "imagePullPolicy": "Never"}
    for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
        del container[key]
    folders = mounted(source, secrets, folder)
    paths = {mount["name"]: str(folders[mount["mountPath"]]) for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        if volume.pop("secret", None):
            volume["hostPath"] = {"path": paths[volume["name"]]}
    pod["hostNetwork"] = True
    return yaml.safe_dump_all([settings, deployment]), port, metrics_port


@contextmanager
def play(
    manifests: Manifests, folder: Path, *, secrets: dict[str, dict[str, str]], api_key: str = "", redis_url: str = ""
) -> Iterator[Pod]:
    """Run the only Deployment of the service with the image of this checkout, and wait until it is ready.

    Args:
        manifests: Objects of an overlay or of the chart.
        folder: Empty folder for the files of Secrets.
        secrets: Values by Secret and key.
        api_key: API key of the clients.
        redis_url: Address of Redis, where the Deployment uses one.
    """
    text, port, metrics_port = _playable(manifests, redis_url=redis_url, secrets=secrets, folder=folder)
    file = folder / "play.yaml"
    file.write_text(text)
    podman("kube", "play", str(file))
    try:
        names = podman("ps", "--all", "--format", "{{.Names}}").stdout.split()
        (container,) = [name for name in names if name == f"{POD}-edgesam"]
        urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
        pod = Pod(container, *urls, manifests.services()[0], api_key)
        with pod.open_client() as client:
            wait_until(lambda: _is_started(pod, client), timeout_s=_START_S, what="the pod did not start")
        yield pod
    finally:
        podman("pod", "rm", "--force", "--time", "0", POD, check=False)


def _is_started(pod: Pod, client: httpx.Client) -> bool:
    """Return whether the startup probe succeeds."""
    assert pod.inspect("{{.State.Running}}") == "true", podman("logs", pod.container).stdout
    try:
        return pod.probe(client, "startupProbe").status_code == 200
    except httpx.TransportError:
        return False
