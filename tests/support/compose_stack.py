"""docker/compose.yaml, started by podman-compose: real containers on the host's network.

`_override` contains all differences from an operator's `docker compose up`. Tests use the host's network, so that every
service needs a port of its own, and services connect by port instead of by name.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml
from support import image_builder
from support.redis_server import free_port, wait_until

_COMPOSE_S = 180.0
_START_S = 120.0
_DEBIAN = (
    "RUN apt-get update && apt-get install -y --no-install-recommends"
    " redis-server redis-tools haproxy prometheus prometheus-alertmanager prometheus-redis-exporter"
    " && rm -rf /var/lib/apt/lists/*"
)
# Images that replace published ones. Three of them have an entrypoint, as the published images.
_STAND_INS = {
    "redis": "",
    "proxy": "",
    "prometheus": 'ENTRYPOINT ["/usr/bin/prometheus"]',
    "alertmanager": 'ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]',
    "redis-exporter": 'ENTRYPOINT ["/usr/bin/prometheus-redis-exporter"]',
}


class ComposeStack:
    """The services of the compose file; a context manager that starts and removes them.

    Args:
        folder: Empty folder for a copy of docker/ with secrets of its own.
        image: Container image of the replicas.
        services: Names of the services to start.
    """

    def __init__(self, folder: Path, *, image: str, services: list[str]) -> None:
        self._folder = folder / "docker"
        self._image = image
        self._services = services
        self._project = f"edgesam-{os.getpid()}"
        names = ("proxy", "proxy_metrics", "a", "a_metrics", "b", "b_metrics", "redis", "exporter")
        names += ("prometheus", "alertmanager")
        self.ports = {name: free_port() for name in names}

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def replica_url(self, name: str) -> str:
        """Return the address of the replica `a` or `b`, without the proxy."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def metrics_url(self, name: str) -> str:
        """Return the address of the metrics of `proxy`, `a` or `b`."""
        return f"http://127.0.0.1:{self.ports[f'{name}_metrics']}/metrics"

    def secret(self, name: str) -> str:
        """Return a value of docker/.env."""
        lines = dict(line.split("=", 1) for line in (self._folder / ".env").read_text().splitlines())
        return lines[name]

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"{self._project}_{service}_1"

    def inspect(self, service: str) -> dict[str, Any]:
        """Return podman's data about a service's container."""
        (known,) = json.loads(image_builder.podman("inspect", self.container(service)).stdout)
        return dict(known)

    def compose(self, *arguments: str, timeout_s: float = _COMPOSE_S) -> str:
        """Run podman-compose on the copied file and the override, and return its output."""
        files = ["-f", "compose.yaml", "-f", "override.yaml"]
        command = ["podman-compose", "--podman-path", str(self._folder / "podman"), "-p", self._project, *files]
        done = subprocess.run(
            [*command, "--in-pod", "false", "--profile", "monitoring", *arguments],
            cwd=self._folder,
            env=image_builder.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"podman-compose {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def recreate(self, service: str) -> None:
        """Update a replica as an operator does: stop, remove and start its container."""
        self.compose("up", "-d", "--no-deps", "--force-recreate", service)
        self.wait_until_ready(service.removeprefix("edgesam-"))

    def wait_until_ready(self, name: str) -> None:
        """Wait until a replica is ready and the proxy, which checks twice a second, sends requests to it."""
        wait_until(
            lambda: _answers(f"{self.replica_url(name)}/readyz"), timeout_s=_START_S, what=f"{name} is not ready"
        )
        wait_until(lambda: self.is_up(name), timeout_s=10, what=f"the proxy does not see {name}")

    def is_up(self, name: str) -> bool:
        """Return whether the proxy sends prompts to a replica."""
        text = httpx.get(self.metrics_url("proxy"), trust_env=False).text
        return f'haproxy_server_status{{proxy="clicks",server="{name}",state="UP"}} 1' in text

    def __enter__(self) -> Self:
        shutil.copytree(image_builder.ROOT / "docker", self._folder, ignore=shutil.ignore_patterns(".env", "secrets"))
        (self._folder.parent / "k8s").symlink_to(image_builder.ROOT / "k8s")
        subprocess.run([self._folder / "make-secrets"], check=True, capture_output=True)
        with (self._folder / ".env").open("a") as file:
            file.write(f"IMAGE={self._image}\n")
        published = yaml.safe_load((self._folder / "compose.yaml").read_text())["services"]
        for service, entry in _STAND_INS.items():
            image_builder.build_stand_in(published[service]["image"], f"{_DEBIAN}\n{entry}")
        (self._folder / "override.yaml").write_text(yaml.safe_dump(self._override(published)))
        self._aim_prometheus()
        wrapper = self._folder / "podman"
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(image_builder.podman_command())} "$@"\n')
        wrapper.chmod(0o755)
        try:
            self.compose("up", "-d", "--no-build", *self._services)
            for name in ("a", "b"):
                self.wait_until_ready(name)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.compose("down", "-v", "-t", "5")

    def _override(self, published: dict[str, Any]) -> dict[str, Any]:
        """Return overrides for the host's network, with ports instead of names."""
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        services: dict[str, Any] = {name: {"network_mode": "host"} for name in published}
        for name in ("a", "b"):
            url = f"redis://edgesam:{self.secret('REDIS_PASSWORD')}@{at['redis']}/0"
            services[f"edgesam-{name}"]["environment"] = {
                "EDGESAM_HOST": "127.0.0.1",
                "EDGESAM_PORT": str(self.ports[name]),
                "EDGESAM_METRICS_PORT": str(self.ports[f"{name}_metrics"]),
                "EDGESAM_REDIS_URL": url,
            }
        services["proxy"]["environment"] = {
            "BIND": at["proxy"],
            "BIND_METRICS": at["proxy_metrics"],
            "REPLICA_A": at["a"],
            "REPLICA_B": at["b"],
            "REPLICA_GPU": "127.0.0.1:1",  # no server uses this port
        }
        listening = ["--port", str(self.ports["redis"]), "--bind", "127.0.0.1"]
        services["redis"]["command"] = [*published["redis"]["command"], *listening]
        services["redis-exporter"]["command"] = [f"--web.listen-address={at['exporter']}"]
        services["redis-exporter"]["environment"] = {"REDIS_ADDR": f"redis://{at['redis']}"}
        for name in ("prometheus", "alertmanager"):
            listening = [f"--web.listen-address={at[name]}"]
            services[name]["command"] = [*published[name]["command"][:-1], *listening]
        return {"services": services}

    def _aim_prometheus(self) -> None:
        """Replace names by ports in Prometheus' configuration, and scrape every second."""
        path = self._folder / "prometheus.yml"
        text = path.read_text().replace("15s", "1s")
        names = {
            "edgesam-a:9000": "a_metrics",
            "edgesam-b:9000": "b_metrics",
            "redis-exporter:9121": "exporter",
            "proxy:8405": "proxy_metrics",
            "alertmanager:9093": "alertmanager",
        }
        for name, port in names.items():
            assert name in text, f"Prometheus does not know {name}"
            text = text.replace(name, f"127.0.0.1:{self.ports[port]}")
        path.write_text(text)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
