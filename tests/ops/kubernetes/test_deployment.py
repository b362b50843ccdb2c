"""The Deployment of overlays/cpu as a pod of `podman kube play`, with its security context enforced.

The tests take the place of the kubelet: they call the probes of the manifest and delete the pod.
"""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.image_builder import podman
from support.image_builder import why_not as why_no_image
from support.kube_pod import POD, Pod, play
from support.manifest_redis import manifest_redis, secrets_and_api_key, values_of
from support.manifests import bytes_of, container_of
from support.noise_images import noise_file
from support.redis_server import wait_until
from support.service_client import assert_problem, embed, open_client, point, segment

from service.errors import NotReady

MIB = 1 << 20
BASE_MIB = 560  # as in test_resources.py


@pytest.fixture(scope="module")
def pod(every, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The pod, ready, with the Redis of the manifests."""
    if reason := why_no_image():
        pytest.skip(reason)
    manifests, folder = every["cpu"], tmp_path_factory.mktemp("pod")
    printed, api_key = secrets_and_api_key()
    secrets = values_of(printed)
    with (
        manifest_redis(manifests.named("Deployment", "edgesam-redis"), secrets, folder / "redis") as redis_url,
        play(manifests, folder / "pod", secrets=secrets, api_key=api_key, redis_url=redis_url) as playing,
    ):
        yield playing


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
