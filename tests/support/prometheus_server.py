"""A real Prometheus, redis_exporter and Alertmanager for tests, on free loopback ports."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from support.redis_server import free_port, wait_until

_START_S = 60.0


class Program:
    """A server process; a context manager that starts and stops it. Subclasses define its command and ready path."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="edgesam-ops-"))

    def command(self) -> Sequence[str]:
        """Return the program and its arguments."""
        raise NotImplementedError

    def ready_path(self) -> str:
        """Return the path that answers 200 when the server is ready."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        wrapped = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # even if the tests are killed
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*wrapped, *self.command()], stdout=log, stderr=log)
        try:
            wait_until(self._is_ready, timeout_s=_START_S, what=f"{self.command()[0]} did not start")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL, and remove the folder."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.command()[0]} ended: {(self.folder / 'log').read_text()[-2000:]}")
        try:
            return httpx.get(f"{self.url}{self.ready_path()}", trust_env=False, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


class RedisExporter(Program):
    """redis_exporter of one Redis."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._redis_url = redis_url

    def command(self) -> Sequence[str]:
        """Return the command of a container."""
        listen = ["-web.listen-address", f"127.0.0.1:{self.port}"]
        return ["prometheus-redis-exporter", "-redis.addr", self._redis_url, *listen]

    def ready_path(self) -> str:
        """Return the only path for health checks."""
        return "/health"


class PrometheusServer(Program):
    """Prometheus that scrapes and evaluates every second, and stores exemplars.

    Args:
        jobs: Addresses `host:port` of the targets by job. All targets have the namespace `demo`.
        rules: Text of the rule file. Its groups are evaluated every second.
    """

    def __init__(self, jobs: Mapping[str, Sequence[str]], rules: str) -> None:
        super().__init__()
        (self.folder / "rules.yaml").write_text(rules.replace("interval: 30s", "interval: 1s"))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self.folder / "rules.yaml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets), "labels": {"namespace": "demo"}}]}
                for job, targets in jobs.items()
            ],
        }
        self.config = self.folder / "prometheus.json"  # JSON is YAML
        self.config.write_text(json.dumps(config))

    def command(self) -> Sequence[str]:
        """Return the command with the feature flag for exemplars."""
        return [
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    def ready_path(self) -> str:
        """Return the path that answers 200 when storage and rules are loaded."""
        return "/-/ready"

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Return the `data` of a response of the HTTP API.

        Raises:
            ValueError: Prometheus refused the request. The message is Prometheus' own.
        """
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer['error']}: {parameters}")
        return answer.get("data")

    def values(self, expr: str) -> list[float]:
        """Return the values of an instant query."""
        return [float(series["value"][1]) for series in self.ask("query", query=expr)["result"]]


class AlertmanagerServer(Program):
    """A single Alertmanager.

    Args:
        config: Path of its configuration file.
    """

    def __init__(self, config: Path) -> None:
        super().__init__()
        self._config = config

    def command(self) -> Sequence[str]:
        """Return the command without a cluster port."""
        return [
            "prometheus-alertmanager",
            f"--config.file={self._config}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def ready_path(self) -> str:
        """Return the path that answers 200 when the configuration is loaded."""
        return "/-/ready"

    def send(self, alerts: Sequence[Mapping[str, str]]) -> None:
        """Send alerts, given by their labels, as Prometheus does."""
        body = [{"labels": dict(labels)} for labels in alerts]
        httpx.post(f"{self.url}/api/v2/alerts", json=body, trust_env=False, timeout=30).raise_for_status()

    def alerts(self) -> list[Any]:
        """Return all alerts, with state and receivers."""
        answer = httpx.get(f"{self.url}/api/v2/alerts", trust_env=False, timeout=30).raise_for_status()
        return list(answer.json())
