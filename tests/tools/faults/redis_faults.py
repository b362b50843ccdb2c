"""Faults of Redis during prompts and uploads. They must not affect prompts on images in memory."""

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from support.redis_server import RedisCluster, RedisSentinels, RedisServer, wait_until
from support.service_client import open_client
from tools.faults.outcome import Outcome, Row
from tools.faults.proxy import Proxy
from tools.faults.scene import (
    COMMENT_AT,
    Scene,
    Stream,
    click,
    embed_all,
    ok_only,
    problems_only,
    redis_state,
    upload,
)

from service.sam.embedding import VALUE_VERSION

USER = (
    "user edgesam on >s3cret ~edgesam:* ~lock:* resetchannels &edgesam:forget "
    "-@all +get +getex +getrange +set +unlink +exists +pexpire +eval +publish +subscribe +ping"
)
UNAVAILABLE, LOST = "503 cache-unavailable", "404 embedding-not-found"
IN_MEMORY, IN_REDIS, UPLOADS = "clicks, image in memory", "clicks, image in Redis only", "uploads"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of Redis.

    Args:
        name: Name of the fault.
        strike: Function that causes the fault.
        heal: Function that ends the fault.
        allowed: Errors that prompts may get if they need Redis. Unavailable is always one of them, because Redis may be
            slow on a busy machine.
        has_errors: Whether some of these prompts have to fail. Otherwise the experiment would test nothing.
        opens_breaker: Whether the circuit breaker has to open.
        loses_values: Whether embeddings are lost, so that clients have to upload again.
        is_unresponsive: Whether Redis keeps connections open without answering, which takes longer to watch.
    """

    name: str
    strike: Callable[[], None]
    heal: Callable[[], None]
    allowed: frozenset[str] = frozenset({UNAVAILABLE})
    has_errors: bool = True
    opens_breaker: bool = False
    loses_values: bool = False
    is_unresponsive: bool = False


class Replicas:
    """Two services on one Redis: one keeps images in memory, the other needs Redis for each prompt."""

    def __init__(self, scene: Scene, url: str) -> None:
        self.scene = scene
        self.images = scene.images()
        self.keeps = scene.service(redis_url=url)
        self.asks = scene.service(redis_url=url, memory_cache_bytes=0)
        self.hashes = embed_all(self.keeps.url, self.images)
        clicks = [click(image_hash, number) for number in range(8) for image_hash in self.hashes]
        fresh = [varied(scene.image((120, 160)), number) for number in range(200)]
        effort = scene.effort
        self.streams = [
            Stream(IN_MEMORY, [self.keeps.url], clicks, effort.clicks_per_s),
            Stream(IN_REDIS, [self.asks.url], clicks, effort.cold_clicks_per_s),
        ]
        if effort.uploads_per_s:
            self.streams.append(Stream(UPLOADS, [self.asks.url], [upload(one) for one in fresh], effort.uploads_per_s))

    def embed_again(self) -> None:
        """Upload all images until both services have them, as clients do after a 404."""

        def are_there() -> bool:
            embed_all(self.keeps.url, self.images)
            with open_client(self.asks.url) as client:
                return all(client.head(f"/embed/{one}").status_code == 200 for one in self.hashes)

        wait_until(are_there, timeout_s=60, what="Redis does not take the images")

    def run(self, outcome: Outcome, fault: Fault) -> None:
        """Run one fault and check the promises."""
        self.embed_again()
        states = []

        def heal() -> None:
            fault.heal()
            if fault.loses_values:
                self.embed_again()

        rows = self.scene.watch(
            fault.name,
            self.streams,
            fault.strike,
            heal,
            during_s=self.scene.effort.unresponsive_s if fault.is_unresponsive else None,
            look=lambda: states.append(redis_state(self.asks.url)),
        )
        outcome.rows += rows
        memory, redis, *uploads = rows
        judge(outcome, memory, redis, uploads, set(fault.allowed))
        outcome.promise(redis.errors or not fault.has_errors, f"{fault.name}: no request failed, so nothing was tested")
        is_visible = states == [("resting", 1.0)]
        outcome.promise(is_visible or not fault.opens_breaker, f"{fault.name}: /readyz and the metric say {states}")
        wait_until(lambda: redis_state(self.asks.url) == ("ok", 0.0), timeout_s=30, what="the breaker stays open")


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Run all faults, or a few of them in the quick form."""
    outcome = Outcome("Redis")
    single_server(scene, outcome, quick=quick)
    if not quick:
        expired_certificate(scene, outcome)
        lost_node(scene, outcome)
        failover(scene, outcome)
    return outcome


def single_server(scene: Scene, outcome: Outcome, *, quick: bool) -> None:
    """One server behind a proxy, with the smallest user of docs/how-to/redis.md."""
    server = scene.enter(RedisServer(acl=[USER]))
    proxy = scene.enter(Proxy(server.port))
    replicas = Replicas(scene, f"redis://edgesam:s3cret@127.0.0.1:{proxy.port}")
    faults = {fault.name: fault for fault in every_fault(server, proxy)}
    chosen = ["stopped (SIGSTOP)", "killed, restarts empty", "values damaged"] if quick else faults
    for name in chosen:
        replicas.run(outcome, faults[name])


def every_fault(server: RedisServer, proxy: Proxy) -> list[Fault]:
    """Return the faults of one server and of the network to it."""

    def slow() -> None:
        proxy.delay_s, proxy.bytes_per_s = 0.02, 4 << 20

    def set_user(*rules: str) -> None:
        server.ask("ACL", "SETUSER", "edgesam", *rules)

    def cut() -> None:
        proxy.cut_after_bytes = 1 << 20

    def flip() -> None:
        proxy.flips = True

    def configure(**options: str) -> None:
        for name, value in options.items():
            server.ask("CONFIG", "SET", name.replace("_", "-"), value)

    return [
        Fault("connections refused", proxy.refuse, proxy.accept, opens_breaker=True),
        Fault("stopped (SIGSTOP)", server.pause, server.resume, opens_breaker=True, is_unresponsive=True),
        Fault(
            "killed, restarts empty", server.kill, server.start, frozenset({UNAVAILABLE, LOST}), opens_breaker=True,
            loses_values=True,
        ),
        Fault(
            "out of memory", lambda: configure(maxmemory_policy="noeviction", maxmemory="1"),
            lambda: configure(maxmemory="0"), has_errors=False,
        ),
        Fault("slow link, 20 ms and 4 MiB/s", slow, proxy.reset),
        Fault("cut in the middle of a value", cut, proxy.reset),
        Fault("a bit flips in transit", flip, proxy.reset, frozenset({UNAVAILABLE, LOST}), loses_values=True),
        Fault(
            "values damaged", lambda: damage(server), lambda: None, frozenset({UNAVAILABLE, LOST}), loses_values=True,
        ),
        Fault(
            "read-only replica", lambda: server.ask("REPLICAOF", "127.0.0.1", "1"),
            lambda: server.ask("REPLICAOF", "NO", "ONE"),
        ),
        Fault("user has no rights", lambda: set_user("nocommands"), lambda: set_user(*USER.split()[2:])),
    ]  # fmt: skip


def damage(server: RedisServer) -> None:
    """Damage all values: truncated, with a flipped bit, of another version or of another model."""
    keys = [key for key in server.ask("KEYS", "edgesam:*") if b":mask:" not in key and key != b"edgesam:models"]
    kinds = (_truncated, _flipped, _of_another_version, _of_another_model)
    for number, key in enumerate(sorted(keys)):
        server.ask("SET", key, kinds[number % len(kinds)](server.ask("GET", key)))


def _truncated(value: bytes) -> bytes:
    return value[: len(value) // 2]


def _flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 0x10]) + value[middle + 1 :]


def _of_another_version(value: bytes) -> bytes:
    return _with_header(value[:4] + bytes([VALUE_VERSION + 1]) + value[5:])


def _of_another_model(value: bytes) -> bytes:
    return _with_header(value[:16] + bytes(16) + value[32:])


def _with_header(value: bytes) -> bytes:
    """Return a value with the right checksum of its header."""
    return value[:36] + struct.pack("<I", zlib.crc32(value[:36])) + value[40:]


def expired_certificate(scene: Scene, outcome: Outcome) -> None:
    """Let the server's certificate expire, so that new connections fail."""
    server = scene.enter(RedisServer(tls=True))
    folder = server.ca_path.parent
    valid, expired = folder / "server.crt", folder / "expired.crt"
    sign = f"x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 0 -extfile names -out {expired}"
    subprocess.run([shutil.which("openssl") or "openssl", *sign.split()], cwd=folder, check=True, capture_output=True)
    replicas = Replicas(scene, f"{server.tls_url}?ssl_ca_certs={server.ca_path}")

    def present(certificate: Path) -> None:
        server.ask("CONFIG", "SET", "tls-cert-file", str(certificate))
        with suppress(Exception):  # this connection is killed as well
            server.ask("CLIENT", "KILL", "TYPE", "normal")

    sleep(1.1)  # -days 0 is valid for its first second
    fault = Fault("TLS certificate expired", lambda: present(expired), lambda: present(valid), opens_breaker=True)
    replicas.run(outcome, fault)


def lost_node(scene: Scene, outcome: Outcome) -> None:
    """Kill one of three masters of a cluster and restart it empty. Images on the others are not affected."""
    cluster = scene.enter(RedisCluster())
    replicas = Replicas(scene, cluster.url)
    lost = max(cluster.nodes, key=lambda node: node.ask("DBSIZE"))

    def back() -> None:
        lost.start()
        wait_until(
            lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in cluster.nodes), timeout_s=30
        )
        replicas.embed_again()

    rows = scene.watch(
        "Cluster: one of three nodes lost, restarts empty",
        replicas.streams,
        lost.kill,
        back,
    )
    outcome.rows += rows
    memory, redis, *uploads = rows
    judge(outcome, memory, redis, uploads, {UNAVAILABLE, LOST})


def failover(scene: Scene, outcome: Outcome) -> None:
    """Kill the master: Sentinel promotes its replica."""
    sentinels = scene.enter(RedisSentinels())
    replicas = Replicas(scene, sentinels.url)
    rows = scene.watch("Sentinel: master lost, replica takes over", replicas.streams, sentinels.master.kill,
                       lambda: None, during_s=0.0)  # fmt: skip
    outcome.rows += rows
    memory, redis, *uploads = rows
    judge(outcome, memory, redis, uploads, {UNAVAILABLE, LOST})


def judge(outcome: Outcome, memory: Row, redis: Row, uploads: Sequence[Row], allowed: set[str]) -> None:
    """Check the promises for the three kinds of requests."""
    ok_only(outcome, memory)
    problems_only(outcome, redis, allowed)
    for row in uploads:
        problems_only(outcome, row, set())


def varied(image: bytes, number: int) -> bytes:
    """Return the same image as another file."""
    return image[:COMMENT_AT] + f"{number:016x}".encode() + image[COMMENT_AT + 16 :]
