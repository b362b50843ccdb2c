"""HAProxy in place of a Kubernetes Service and its Ingress: health checks on /readyz and a hash of X-Image-Hash.

It does not repeat requests, which would hide errors.
"""

import csv
import io
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from support.redis_server import free_port, wait_until

CHECK_MS = 250
FALL = 2
_START_S = 20.0

# `retries 0` and no redispatch: a refused connection is an error for the client. By default HAProxy does not repeat a
# request that a replica has received. Timeouts are long, because a late response is no error.
_CONFIGURATION = """
global
    stats socket {socket} level admin
defaults
    mode http
    retries 0
    no option redispatch
    option http-keep-alive
    timeout connect 5s
    timeout check 5s
    timeout client 200s
    timeout server 200s
    timeout http-request 10s
frontend service
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance hdr(X-Image-Hash)
    hash-type consistent
    option httpchk GET /readyz
    http-check expect status 200
    http-response set-header X-Replica %s
    default-server check inter {check_ms} fall {fall} rise 1 pool-max-conn 64
{servers}
"""


class Balancer:
    """HAProxy in front of replicas; a context manager.

    Args:
        folder: Empty folder for the configuration and the admin socket.
        ports: Ports of the replicas. A port may have no replica yet.
    """

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._socket = folder / "admin"
        self._file = folder / "haproxy.cfg"
        self._file.write_text(
            _CONFIGURATION.format(
                socket=self._socket,
                port=self.port,
                check_ms=CHECK_MS,
                fall=FALL,
                servers="\n".join(f"    server replica-{port} 127.0.0.1:{port}" for port in ports),
            )
        )

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(self._file)], stderr=subprocess.DEVNULL)
        try:
            wait_until(self._socket.exists, timeout_s=_START_S, what="haproxy did not start")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(timeout=10)

    def wait_for(self, port: int, *, is_up: bool) -> None:
        """Wait until the replica on a port is up, or down."""
        wait_until(
            lambda: (self._row(f"replica-{port}")["status"] == "UP") is is_up,
            timeout_s=60,
            what=f"replica-{port} is never {'up' if is_up else 'down'}",
        )

    def errors(self) -> dict[str, int]:
        """Return HAProxy's counts of failed connections and responses, retries, redispatches and aborted transfers."""
        row = self._row("BACKEND")
        return {name: int(row[name]) for name in ("econ", "eresp", "wretr", "wredis", "srv_abrt")}

    def _row(self, server: str) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        rows = csv.DictReader(io.StringIO(received.decode().lstrip("# ")))
        (row,) = [row for row in rows if row["pxname"] == "replicas" and row["svname"] == server]
        return row
