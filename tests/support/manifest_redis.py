"""The Redis of the manifests as a process: its own arguments and users, on a free port of this machine."""

import base64
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import yaml
from support.manifests import K8S, Manifest, container_of
from support.redis_server import free_port

_START_S = 20.0


def make_secrets(*options: str) -> dict[str, dict[str, str]]:
    """What k8s/make-secrets prints: values by Secret and key."""
    text = subprocess.run([str(K8S / "make-secrets"), *options], capture_output=True, text=True, check=True).stdout
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        for one in yaml.safe_load_all(text)
    }


@contextmanager
def manifest_redis(deployment: Manifest, secrets: dict[str, dict[str, str]], folder: Path) -> Iterator[str]:
    """Start redis-server as the Deployment's container would, with the Secrets' files under `folder`.

    Yields:
        The Secret's address with this machine's port in place of the Service's.
    """
    port = free_port()
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(deployment)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    places = {}
    for path, name in mounts.items():
        places[path] = folder / name
        places[path].mkdir()
        if "secret" in volumes[name]:
            for key, value in secrets[volumes[name]["secret"]["secretName"]].items():
                (places[path] / key).write_text(value)
    arguments = []
    for argument in container_of(deployment)["args"]:
        for path, place in places.items():
            argument = re.sub(rf" {path}(?=/|$)", f" {place}", argument)  # noqa: PLW2901 - from one place to the next
        arguments.append(argument.replace("port 6379", f"port {port}"))
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "redis-server", *arguments, "--bind 127.0.0.1"]) as server:
        try:
            _wait(server, port)
            yield secrets["edgesam-redis"]["url"].replace("edgesam-redis:6379", f"127.0.0.1:{port}")
        finally:
            server.kill()


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Until the port answers; who asks is known or not."""
    deadline = time.monotonic() + _START_S
    while True:
        assert server.poll() is None, "redis-server does not take the manifest's arguments"
        try:
            with redis.Redis(port=port, socket_timeout=1) as client:
                client.ping()
        except (redis.AuthenticationError, redis.exceptions.TimeoutError):  # the second: it waits for TLS
            return
        except redis.ConnectionError as error:
            if "Connection refused" not in str(error):
                return
        assert time.monotonic() < deadline, "redis-server did not start"
        time.sleep(0.02)
