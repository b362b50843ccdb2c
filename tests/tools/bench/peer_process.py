"""Start and control processes of other servers: the typical server here, osam in `osam_process`."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from support.redis_server import free_port, wait_until
from tools.bench.connection import Connection, request

_PROGRAM = Path(__file__).parent / "peer_server.py"
_START_S = 60.0
# Variables that only our own processes set.
_OURS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY")


class ServerProcess:
    """A process of another server on this machine; a context manager that starts and stops it.

    Args:
        command: Command line.
        port: Port on which it listens.
        health: Path that answers 200 once it is ready.
        environment: Environment of the process, without the variables of ours.
    """

    def __init__(self, command: Sequence[str], *, port: int, health: str, environment: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = list(command)
        self._health = health
        self._environment = {key: value for key, value in environment.items() if key not in _OURS}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env=self._environment)
        try:
            wait_until(self._is_healthy, timeout_s=_START_S, what="the other server did not start")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _is_healthy(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the other server ended with {self._process.returncode}; its message is above")
        try:
            with Connection(self.url) as connection:
                return connection.ask(request("GET", self._health)).status == 200
        except OSError:
            return False

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)


class PeerProcess(ServerProcess):
    """A process of the typical server.

    Args:
        encoder: Path of the official encoder graph.
        decoder: Path of the official decoder graph.
    """

    def __init__(self, encoder: Path, decoder: Path) -> None:
        port = free_port()
        command = [
            sys.executable, str(_PROGRAM), "--encoder", str(encoder), "--decoder", str(decoder), "--port", str(port),
        ]  # fmt: skip
        super().__init__(command, port=port, health="/health", environment=os.environ)

    def embed(self, data: bytes) -> str:
        """Embed an image and return its id."""
        body = json.dumps({"image": base64.b64encode(data).decode()}).encode()
        with Connection(self.url) as connection:
            return str(connection.post("/embed", body).json()["image_id"])
