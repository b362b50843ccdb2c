"""HTTP byte by byte, for what no client library does: stop in the middle, promise wrongly, go away."""

import socket
from contextlib import suppress
from http.client import HTTPResponse
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

WAIT_S = 60.0


class RawConnection:
    """One TCP connection to the service; closed on leaving.

    Args:
        url: of the service.
        receive_buffer_bytes: what the kernel may keep for us, unread; None leaves that to the kernel, up to megabytes.
    """

    def __init__(self, url: str, *, receive_buffer_bytes: int | None = None) -> None:
        address = urlsplit(url)
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(WAIT_S)
        self._socket.connect((address.hostname, address.port))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def start(self, path: str, *headers: str, method: str = "POST") -> None:
        """Send the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: service", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    def response(self, method: str = "POST") -> httpx.Response:
        """Wait for the answer."""
        answer = HTTPResponse(self._socket, method=method)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())

    def receive(self, count: int) -> bytes:
        """Some of the answer's bytes as they are, at most `count`."""
        return self._socket.recv(count)

    def receive_within(self, seconds: float) -> bytes:
        """Some bytes; TimeoutError when there are none in time."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1)
        finally:
            self._socket.settimeout(WAIT_S)

    def receive_all(self, count: int) -> bytes:
        """At most `count` bytes; fewer when the connection ends before."""
        received = bytearray()
        with suppress(ConnectionResetError):
            while len(received) < count and (data := self._socket.recv(1 << 20)):
                received += data
        return bytes(received)

    def close(self) -> None:
        """Go away, whatever is under way."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
