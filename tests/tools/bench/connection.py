"""An HTTP client on a blocking socket, so that measured times do not include a client library."""

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
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def timings(self) -> dict[str, float]:
        """Return the stage durations of the Server-Timing header, in milliseconds."""
        return parsed_timings(self.headers.get("server-timing", ""))

    def json(self) -> Any:
        """Return the JSON document of the body."""
        return json.loads(self.body)


def parsed_timings(header: str) -> dict[str, float]:
    """Return the durations of a Server-Timing header by name, in milliseconds."""
    parts = [part.strip().split(";dur=") for part in header.split(",")]
    return {name: float(duration) for name, duration in (part for part in parts if len(part) == 2)}


class Connection:
    """A keep-alive connection to a server. It is opened again after it was idle.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "127.0.0.1", address.port or 80)
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a POST request and return the response."""
        return self.ask(request("POST", path, body, headers))

    def ask(self, data: bytes) -> Answer:
        """Send the bytes of a request and return the response.

        Raises:
            RuntimeError: The status is not 2xx.
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
        """Close the connection."""
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
            raise RuntimeError("the server closed the connection in the middle of a response")
        return data


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a request. The content type is JSON unless `headers` contain another."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", **(headers or {}), "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
