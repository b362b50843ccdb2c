"""The Redis of the manifests and its exporter as processes on free ports of this machine.

They have the arguments, variables, files and users of the manifests.
"""

import base64
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis
import yaml
from support.manifests import K8S, Manifest, container_of
from support.prometheus_server import Program
from support.redis_server import free_port

_START_S = 20.0


def secrets_and_api_key(*options: str) -> tuple[str, str]:
    """Return what k8s/make-secrets prints: the Secrets as YAML, and the API key."""
    done = subprocess.run([str(K8S / "make-secrets"), *options], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.rpartition(": ")[2].strip()


def make_secrets(*options: str) -> dict[str, dict[str, str]]:
    """Return the output of k8s/make-secrets: values by Secret and key."""
    return values_of(secrets_and_api_key(*options)[0])


def values_of(text: str) -> dict[str, dict[str, str]]:
    """Return the values of Secrets in YAML, by Secret and key."""
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        for one in yaml.safe_load_all(text)
    }


def mounted(deployment: Manifest, secrets: dict[str, dict[str, str]], folder: Path) -> dict[str, Path]:
    """Write the files of a container's mounts below `folder`, and return their folders by mount path."""
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"].get("volumes", [])}
    places = {}
    for mount in container_of(deployment).get("volumeMounts", []):
        places[mount["mountPath"]] = place = folder / mount["name"]
        place.mkdir(parents=True)
        if (source := volumes[mount["name"]].get("secret")) is not None:
            values = secrets[source["secretName"]]
            items = source.get("items", [{"key": key, "path": key} for key in values])
            for item in items:
                (place / item["path"]).write_text(values[item["key"]])
    return places


@contextmanager
def manifest_redis(deployment: Manifest, secrets: dict[str, dict[str, str]], folder: Path) -> Iterator[str]:
    """Start redis-server with the arguments of the Deployment's container, and the files of the Secrets below `folder`.

    Yields:
        Address of the Secret edgesam-redis, with the port of this machine.
    """
    port = free_port()
    places = mounted(deployment, secrets, folder)
    arguments = []
    for argument in container_of(deployment)["args"]:
        for path, place in places.items():
            argument = re.sub(rf" {path}(?=/|$)", f" {place}", argument)  # noqa: PLW2901 - each round replaces one path
        arguments.append(argument.replace("port 6379", f"port {port}"))
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "redis-server", *arguments, "--bind 127.0.0.1"]) as server:
        try:
            _wait(server, port)
            yield secrets["edgesam-redis"]["url"].replace("edgesam-redis:6379", f"127.0.0.1:{port}")
        finally:
            server.kill()


class ManifestExporter(Program):
    """redis_exporter with the variables and files of its Deployment's container.

    It has its own /etc/hosts, in which the Service's name is this machine, because the certificate has that name.

    Args:
        deployment: Deployment of the exporter.
        secrets: Secrets from `make_secrets`.
        redis_port: Port of Redis, instead of 6379.
    """

    def __init__(self, deployment: Manifest, secrets: dict[str, dict[str, str]], *, redis_port: int) -> None:
        super().__init__()
        places = mounted(deployment, secrets, self.folder)
        self._environment = []
        for variable in container_of(deployment)["env"]:
            if "valueFrom" in variable:
                source = variable["valueFrom"]["secretKeyRef"]
                value = secrets[source["name"]][source["key"]]
            else:
                value = variable["value"].replace(":6379", f":{redis_port}")
                for path, place in places.items():
                    value = value.replace(f"{path}/", f"{place}/")
            self._environment.append(f"{variable['name']}={value}")
        (self.folder / "hosts").write_text("127.0.0.1 localhost edgesam-redis\n")

    def command(self) -> Sequence[str]:
        """Return the command of the exporter, in a mount namespace with its own /etc/hosts."""
        namespace = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec env "$@"']
        listen = ["-web.listen-address", f"127.0.0.1:{self.port}"]
        return [*namespace, str(self.folder / "hosts"), *self._environment, "prometheus-redis-exporter", *listen]

    def ready_path(self) -> str:
        """Return the path of the Deployment's probes."""
        return "/health"


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until the port answers, also if it refuses this client."""
    deadline = time.monotonic() + _START_S
    while True:
        assert server.poll() is None, "redis-server refuses the manifest's arguments"
        try:
            with redis.Redis(port=port, socket_timeout=1) as client:
                client.ping()
        except (redis.AuthenticationError, redis.exceptions.TimeoutError):  # TimeoutError: it waits for TLS
            return
        except redis.ConnectionError as error:
            if "Connection refused" not in str(error):
                return
        assert time.monotonic() < deadline, "redis-server did not start"
        time.sleep(0.02)
