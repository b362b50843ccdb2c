"""HTTP byte by byte, for what no client library does: stop in the middle, promise wrongly, go away."""

import socket
from http.client import HTTPResponse
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

WAIT_S = 60.0


class RawConnection:
    """One TCP connection to the service; closed on leaving."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=WAIT_S)

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

    def close(self) -> None:
        """Go away, whatever is under way."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
