"""Real Redis servers for tests on free loopback ports, which can be paused, killed and restarted."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

_START_S = 20.0  # for busy machines
_POLL_S = 0.005


class RedisServer:
    """A `redis-server` on a TCP port and a unix socket, without persistence; a context manager.

    Args:
        tls: Whether it also has a TLS port. `ca_path` is the authority of its certificate for 127.0.0.1.
        acl: Lines of an ACL file, for instance `user a on >b ~* +get`. Only these users and `ask` may then connect.
        arguments: Further options of redis-server, such as `--maxmemory 8mb`, one string each.
    """

    def __init__(self, *, tls: bool = False, acl: Sequence[str] = (), arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.tls_port = free_port() if tls else 0
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))  # the path of pytest's folder is too long for a socket
        self._socket = self._folder / "redis.sock"
        self._acl = list(acl)
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address over TCP."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """Address over the unix socket."""
        return f"unix://{self._socket}"

    @property
    def tls_url(self) -> str:
        """Address over TLS, without a certificate authority."""
        return f"rediss://127.0.0.1:{self.tls_port}"

    @property
    def ca_path(self) -> Path:
        """Path of the certificate authority of the TLS port."""
        return self._folder / "ca.crt"

    def ask(self, *command: str | bytes | int) -> Any:
        """Return the response to a command, on a new connection with all permissions."""
        user = "admin" if self._acl else None
        with redis.Redis(unix_socket_path=str(self._socket), username=user, password=user) as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Start an empty server and wait for its first response. After `kill` it has the same addresses."""
        command = [
            *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),  # even if the tests are killed
            _program("redis-server"),
            *f"--port {self.port} --bind 127.0.0.1 --unixsocket {self._socket} --appendonly no".split(),
            *("--save", "", "--dir", str(self._folder), "--logfile", str(self._folder / "log")),
            *self._tls_options(),
            *self._acl_options(),
            *(word for argument in self._arguments for word in argument.split()),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until(self._answers, timeout_s=_START_S, what="redis-server did not start")

    def pause(self) -> None:
        """Stop the process (SIGSTOP), with all connections open. Returns when the process has stopped."""
        os.kill(self._running().pid, signal.SIGSTOP)
        os.waitpid(self._running().pid, os.WUNTRACED)

    def resume(self) -> None:
        """Continue after `pause`."""
        os.kill(self._running().pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once (SIGKILL). Its data is lost, and its port refuses connections."""
        self._running().kill()
        self._running().wait()
        self._process = None
        self._socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill the server and start an empty one with the same addresses."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End the process in any state, and remove its folder."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _answers(self) -> bool:
        if self._running().poll() is not None:
            log = self._folder / "log"
            report = log.read_text() if log.exists() else "no log"
            raise RuntimeError(f"redis-server ended with {self._running().returncode}: {report}")
        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            return False

    def _tls_options(self) -> list[str]:
        if not self.tls_port:
            return []
        if not self.ca_path.exists():
            _make_certificates(self._folder)
        return (
            f"--tls-port {self.tls_port} --tls-cert-file {self._folder}/server.crt "
            f"--tls-key-file {self._folder}/server.key --tls-ca-cert-file {self.ca_path} --tls-auth-clients no"
        ).split()

    def _acl_options(self) -> list[str]:
        if not self._acl:
            return []
        path = self._folder / "users.acl"
        path.write_text("\n".join(["user default off", "user admin on >admin ~* &* +@all", *self._acl, ""]))
        return ["--aclfile", str(path)]


class RedisCluster:
    """Masters of a cluster on this machine, without replicas; a context manager like RedisServer.

    Args:
        masters: Number of masters. Together they have all slots.
        acl: Lines of the ACL file of every node, as for RedisServer. `redis-cli` creates the cluster as `admin`.
    """

    def __init__(self, *, masters: int = 3, acl: Sequence[str] = ()) -> None:
        self.nodes = [
            RedisServer(
                acl=acl,
                arguments=[
                    "--cluster-enabled yes",
                    f"--cluster-port {free_port()}",
                    "--cluster-node-timeout 1000",
                    "--cluster-require-full-coverage no",
                ],
            )
            for _ in range(masters)
        ]
        self._login = ["--user", "admin", "--pass", "admin", "--no-auth-warning"] if acl else []

    @property
    def url(self) -> str:
        """Address of the cluster, with its first node."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
            create = ["--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
            subprocess.run([_program("redis-cli"), *self._login, *create], check=True, capture_output=True)
            for node in self.nodes:
                wait_until(
                    lambda node=node: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"),
                    timeout_s=_START_S,
                    what="the cluster did not form",
                )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.stop()


class RedisSentinels:
    """A master, its replica and three sentinels; a context manager like RedisServer.

    The sentinels replace a master that does not answer for half a second.
    """

    NAME = "images"

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replica = RedisServer(
            arguments=[f"--replicaof 127.0.0.1 {self.master.port}", "--repl-diskless-sync-delay 0"]
        )
        self.ports = [free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="sentinel-"))

    @property
    def url(self) -> str:
        """Address of the master, with the sentinels."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{self.NAME}"

    def __enter__(self) -> Self:
        try:
            self.master.start()
            self.replica.start()
            wait_until(
                lambda: self.replica.ask("INFO", "replication")["master_link_status"] == "up",
                timeout_s=_START_S,
                what="the replica does not connect to the master",
            )
            for port in self.ports:
                self._start_sentinel(port)
            for port in self.ports:
                wait_until(
                    lambda port=port: self._knows_all(port),
                    timeout_s=_START_S,
                    what="a sentinel does not know the others",
                )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def master_port(self) -> int:
        """Return the port of the current master, as a sentinel knows it."""
        with redis.Redis(port=self.ports[0]) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)[1])

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.master.stop()
        self.replica.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_sentinel(self, port: int) -> None:
        path = self._folder / f"{port}.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\nlogfile {self._folder}/{port}.log\n"
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {self.NAME} 500\nsentinel failover-timeout {self.NAME} 3000\n"
        )
        command = [*(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []), _program("redis-server")]
        self.processes.append(subprocess.Popen([*command, str(path), "--sentinel"], stdin=subprocess.DEVNULL))

    def _knows_all(self, port: int) -> bool:
        try:
            with redis.Redis(port=port) as client:
                state = client.sentinel_masters()[self.NAME]
        except (redis.ConnectionError, KeyError):
            return False
        return state["num-slaves"] == 1 and state["num-other-sentinels"] == len(self.ports) - 1


def free_port() -> int:
    """Return an unused TCP port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0, what: str = "it did not happen") -> None:
    """Wait until a condition holds, or raise AssertionError with `what` if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(_POLL_S)


async def eventually(
    condition: Callable[[], bool], *, timeout_s: float = 10.0, what: str = "it did not happen"
) -> None:
    """Wait as `wait_until`, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(_POLL_S)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed; the tests need redis-server, redis-cli and openssl")
    return path


def _make_certificates(folder: Path) -> None:
    openssl = _program("openssl")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for arguments in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=Test CA"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "server.crt"],
    ):  # fmt: skip
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)
