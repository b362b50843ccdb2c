"""Clients that are slow, disconnect, open many connections or send malformed requests, while others send prompts."""

import json
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import numpy as np
from support.raw_http import RawConnection
from support.redis_server import wait_until
from support.service_client import Scrape, open_client, point
from support.service_process import ServiceProcess
from tools.bench.connection import request
from tools.faults.outcome import Outcome
from tools.faults.scene import COMMENT_AT, Scene, Stream, click, embed_all, ok_only, process_sample, upload

from service.manifest import load_manifest

MIB = 1 << 20
EVERYTHING_REQUESTS = 4  # EDGESAM_EVERYTHING_AT_ONCE
HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\n"


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Run every kind of misbehaving client against one service."""
    outcome = Outcome("Clients")
    raise_own_file_limit()
    many, idle = (60, 60) if quick else (1000, 10_000)
    service = scene.service(head_timeout_s=2.0 if quick else 20.0, send_timeout_s=2.0, max_connections=12_000)
    hashes = embed_all(service.url, scene.images())
    clicks = [click(image_hash, number) for number in range(8) for image_hash in hashes]
    stream = Stream("clicks of others", [service.url], clicks, scene.effort.clicks_per_s)
    misbehaving = MisbehavingClients(scene, service, stream, outcome)
    misbehaving.hold(f"{many} request heads without an end", many, HEAD)
    misbehaving.disconnect_during_embed(10 if quick else 40)
    misbehaving.disconnect_during_segment(hashes[0], 10 if quick else 60)
    misbehaving.disconnect_during_everything(hashes[0], EVERYTHING_REQUESTS)
    if not quick:
        misbehaving.hold("31 slow bodies", 31, b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
        if load_manifest(scene.model).has_high_res:
            outcome.facts["clients that do not read 2 MiB"] = "not tried: embeddings of this model are not downloaded"
        else:
            misbehaving.do_not_read(hashes[0], 30)
        misbehaving.hold(f"{idle} idle connections", idle, b"")
        misbehaving.send_malformed(hashes[0])
    return outcome


class MisbehavingClients:
    """Misbehaving clients of a service that serves a stream of prompts at the same time."""

    def __init__(self, scene: Scene, service: ServiceProcess, stream: Stream, outcome: Outcome) -> None:
        self.scene = scene
        self.service = service
        self.stream = stream
        self.outcome = outcome

    def watch(self, fault: str, strike: Callable[[], None], heal: Callable[[], None]) -> None:
        """Run a fault during the stream of prompts, of which none may fail."""
        (row,) = self.scene.watch(fault, [self.stream], strike, heal)
        self.outcome.rows.append(row)
        ok_only(self.outcome, row)

    def hold(self, fault: str, count: int, first: bytes) -> None:
        """Open connections that send a first piece and nothing else. The service has to close all of them."""
        before = process_sample(self.service.process.pid)
        held: list[socket.socket] = []
        most, timeout_s = [before], 60.0

        def strike() -> None:
            held.extend(connect(self.service.url, first) for _ in range(count))
            wait_until(
                lambda: process_sample(self.service.process.pid).files > before.files + 0.9 * count,
                timeout_s=timeout_s,
                what=f"{fault}: the service did not take {count} connections",
            )
            most[0] = process_sample(self.service.process.pid)

        self.watch(fault, strike, lambda: None)
        wait_until(
            lambda: process_sample(self.service.process.pid).files < before.files + 40,
            timeout_s=timeout_s,
            what=f"{fault}: not all of {count} connections were closed",
        )
        for one in held:
            one.close()
        self.outcome.facts[f"{fault}: open files and memory of the service, before and at most"] = (
            f"{before.files} → {most[0].files}, {before.rss_bytes / MIB:.0f} → {most[0].rss_bytes / MIB:.0f} MiB"
            f" ({(most[0].rss_bytes - before.rss_bytes) / 1024 / count:.1f} KiB each)"
        )

    def disconnect_during_embed(self, count: int) -> None:
        """Upload new images and disconnect before the response. Most of them must not be encoded."""
        image = self.scene.image()
        bodies = [image[:COMMENT_AT] + f"left{n:012d}".encode() + image[COMMENT_AT + 16 :] for n in range(count)]
        before = self._scrape().value("edgesam_stage_duration_seconds_count", stage="encode")
        self._disconnect(f"{count} uploads whose clients disconnect", "/embed", [upload(body) for body in bodies])
        encoded = self._scrape().value("edgesam_stage_duration_seconds_count", stage="encode") - before
        self.outcome.facts[f"{count} uploads whose clients disconnect: images encoded nevertheless"] = f"{encoded:.0f}"
        self.outcome.promise(encoded <= count / 2, f"{encoded:.0f} of {count} images were encoded without a client")

    def disconnect_during_segment(self, image_hash: str, count: int) -> None:
        """Send requests of 64 prompts each and disconnect before the response."""
        prompts = [point(5 + n, 5 + n) for n in range(64)]
        body = json.dumps({"image_hash": image_hash, "prompts": prompts}).encode()
        before = self._scrape().value("edgesam_batch_size_sum", lane="decode")
        asks = [request("POST", "/segment", body)] * count
        self._disconnect(f"{count} requests of 64 prompts whose clients disconnect", "/segment", asks)
        decoded = self._scrape().value("edgesam_batch_size_sum", lane="decode") - before
        self.outcome.facts[
            f"{count} requests of 64 prompts whose clients disconnect: prompts decoded, also for others"
        ] = f"{decoded:.0f} of {64 * count}"
        self.outcome.promise(
            decoded < 64 * count / 2, f"{decoded:.0f} of {64 * count} prompts were decoded without a client"
        )

    def disconnect_during_everything(self, image_hash: str, count: int) -> None:
        """Ask for all objects by the largest grid, and disconnect before the response."""
        grid = 64 * 64
        body = json.dumps({"image_hash": image_hash, "points_per_side": 64}).encode()
        before = self._scrape().value("edgesam_batch_size_count", lane="everything")
        asks = [request("POST", "/segment/everything", body)] * count
        fault = f"{count} everything requests whose clients disconnect"
        self._disconnect(fault, "/segment/everything", asks)
        calls = self._scrape().value("edgesam_batch_size_count", lane="everything") - before
        self.outcome.facts[f"{fault}: decoder calls"] = f"{calls:.0f} for {count} grids of {grid} points"
        self.outcome.promise(calls < grid / 16, f"{calls:.0f} calls were made for grids without a client")

    def _disconnect(self, fault: str, route: str, requests: list[bytes]) -> None:
        def strike() -> None:
            with ExitStack() as stack:
                for data in requests:
                    stack.enter_context(connect(self.service.url, data))
                wait_until(
                    lambda: self._scrape().value("edgesam_in_flight", route=route) > 0, timeout_s=30, what=f"no {route}"
                )

        self.watch(fault, strike, lambda: None)
        wait_until(
            lambda: (
                self._scrape().value("edgesam_queue_depth") == 0
                and self._scrape().value("edgesam_in_flight", route=route) == 0
            ),
            timeout_s=30,
            what=f"{fault}: work without a client goes on",
        )

    def do_not_read(self, image_hash: str, count: int) -> None:
        """Request embeddings of 2 MiB and do not read them."""
        held: list[socket.socket] = []
        ask = f"GET /embed/{image_hash} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

        def strike() -> None:
            held.extend(connect(self.service.url, ask, receive_buffer_bytes=4096) for _ in range(count))

        self.watch(f"{count} clients that do not read 2 MiB", strike, lambda: None)
        wait_until(
            lambda: self._scrape().value("edgesam_in_flight", route="/embed/{image_hash}") == 0,
            timeout_s=30,
            what="unread responses are kept",
        )
        for one in held:
            one.close()

    def send_malformed(self, image_hash: str) -> None:
        """Send malformed requests. The service answers each with a problem or a mask, or closes the connection."""
        whole = click(image_hash)
        length = len(whole.partition(b"\r\n\r\n")[2])
        twice = whole.replace(b"Content-Length", b"Content-Length: 5\r\nContent-Length", 1)
        both = whole.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length", 1)
        said = f"Content-Length: {length}".encode()
        kinds = {
            "200 requests in one piece": whole * 199 + whole.replace(b"Host", b"Connection: close\r\nHost", 1),
            "two lengths": twice,
            "a length and chunks": both,
            "a negative length": whole.replace(said, b"Content-Length: -1"),
            "a length beyond 64 bits": whole.replace(said, said + b"9" * 30),
            "a header of 1 MiB": HEAD + b"X: " + b"x" * MIB + b"\r\n\r\n",
            "100 000 headers": HEAD + b"X: 1\r\n" * 100_000 + b"\r\n",
            "a target of 1 MiB": b"GET /" + b"x" * MIB + b" HTTP/1.1\r\n\r\n",
            "zero bytes": bytes(100_000),
            "noise": np.random.default_rng(0).bytes(100_000),
            "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
            "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "an upgrade": HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
            "a chunk beyond 64 bits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
        }  # fmt: skip
        answers: dict[str, int] = {}

        def strike() -> None:
            for data in kinds.values():
                for status in self._statuses(data):
                    answers[status] = answers.get(status, 0) + 1

        self.watch(f"{len(kinds)} malformed or unusual requests", strike, lambda: None)
        listed = ", ".join(f"{count} × {status}" for status, count in sorted(answers.items()))
        self.outcome.facts[f"{len(kinds)} malformed or unusual requests: answers"] = listed
        self.outcome.promise(not [status for status in answers if status.startswith("5")], f"answered {listed}")
        self.outcome.promise(answers.get("200", 0) >= 200, f"pipelined requests: {listed}")

    def _statuses(self, data: bytes) -> Iterator[str]:
        with RawConnection(self.service.url) as connection, suppress(OSError):
            connection.send(data)
            received = connection.receive_all(16 * MIB)
            yield from (part[:3].decode("latin-1") for part in received.split(b"HTTP/1.1 ")[1:])

    def _scrape(self) -> Scrape:
        with open_client(self.service.url) as client:
            return Scrape(client)


def connect(url: str, first: bytes, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    """Open a connection and send a first piece."""
    address = urlsplit(url)
    one = socket.socket()
    if receive_buffer_bytes is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    one.settimeout(60)
    one.connect((address.hostname, address.port))
    one.sendall(first)
    return one


def raise_own_file_limit() -> None:
    """Raise this process' limit of open files, because it holds the clients' connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
