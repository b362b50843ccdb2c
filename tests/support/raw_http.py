"""HTTP at the level of bytes, for requests that no client library sends: incomplete, malformed or aborted ones."""

import socket
from contextlib import suppress
from http.client import HTTPResponse
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

WAIT_S = 60.0


class RawConnection:
    """A TCP connection to the service; a context manager that closes it.

    Args:
        url: Address of the service.
        receive_buffer_bytes: Size of the kernel's receive buffer, in bytes. None: the default, up to megabytes.
    """

    def __init__(self, url: str, *, receive_buffer_bytes: int | None = None) -> None:
        address = urlsplit(url)
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(WAIT_S)
        self._socket.connect((address.hostname, address.port))

    def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self._socket.sendall(data)

    def start(self, path: str, *headers: str, method: str = "POST") -> None:
        """Send the request line and the headers of a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: service", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    def response(self, method: str = "POST") -> httpx.Response:
        """Wait for the response."""
        answer = HTTPResponse(self._socket, method=method)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())

    def receive(self, count: int) -> bytes:
        """Return some bytes of the response, at most `count`."""
        return self._socket.recv(count)

    def receive_within(self, seconds: float) -> bytes:
        """Return one byte, or raise TimeoutError if none arrives in time."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1)
        finally:
            self._socket.settimeout(WAIT_S)

    def receive_all(self, count: int) -> bytes:
        """Return `count` bytes, or fewer if the connection ends before."""
        received = bytearray()
        with suppress(ConnectionResetError):
            while len(received) < count and (data := self._socket.recv(1 << 20)):
                received += data
        return bytes(received)

    def close(self) -> None:
        """Close the connection, also in the middle of a request."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
