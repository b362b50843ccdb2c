"""One client: HTTP over a blocking socket, so that a click's time is the service's and not a client library's."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

WAIT_S = 60.0
# uvicorn closes a connection that was idle for 5 s.
_FRESH_S = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `timing` is the Server-Timing header."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def stages(self) -> dict[str, float]:
        """Milliseconds by stage."""
        parts = [part.strip().split(";dur=") for part in self.headers.get("server-timing", "").split(",")]
        return {name: float(duration) for name, duration in (part for part in parts if len(part) == 2)}

    def json(self) -> Any:
        """The body's document."""
        return json.loads(self.body)


class Connection:
    """A keep-alive connection to one address, opened again when it has been idle.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "127.0.0.1", address.port or 80)
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """`ask` for one that is to succeed."""
        return self.ask(request("POST", path, body, headers))

    def ask(self, data: bytes) -> Answer:
        """Send a request as it is and wait for the answer.

        Raises:
            RuntimeError: the answer is not 2xx.
        """
        if self._socket is None or monotonic() > self._used_at + _FRESH_S:
            self._open()
        assert self._socket is not None
        self._socket.sendall(data)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        head = received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in head[1:])}
        length = end + 4 + int(headers["content-length"])
        while len(received) < length:
            received += self._receive()
        self._used_at = monotonic()
        answer = Answer(int(head[0].split()[1]), headers, bytes(received[end + 4 :]))
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{data[:40]!r}: {answer.status} {answer.body[:500]!r}")
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self.close()
        self._socket = socket.create_connection(self._address, timeout=WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the server hung up in the middle of an answer")
        return data


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A request's bytes; JSON unless `headers` say otherwise."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", **(headers or {}), "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
