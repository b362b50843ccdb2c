"""Fetches images from one Label Studio server. This is the only module of the service that fetches anything.

The address of the server is a setting, and never comes from a request. A request only gives the path of an image,
which `label_studio_images` has reduced to Label Studio's own data paths. Redirects are not followed. The name is
resolved once for each connection, every address that it has is checked, and the connection goes to a checked address.

Label Studio knows two kinds of tokens. A legacy token is sent as it is. A personal access token is a JWT. It is
exchanged for an access token that is valid for minutes.
"""

import http.client
import io
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from service.api.problems import broken_rule
from service.errors import BodyTooLarge, ImageSourceUnavailable, InvalidRequest
from service.inference.scheduling.executors import TimedExecutor
from service.regular_files import read_regular_file
from service.telemetry.timings import Timings

# Threads wait for the network. More would only fill memory with images that wait for the encoder.
_THREADS: Final = 4
_CONNECT_TIMEOUT_S: Final = 5.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_TOKEN_BYTES: Final = 4096
_MAX_REFRESH_BYTES: Final = 64 * 1024

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_JWT: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")

# Metadata services of clouds outside of the link-local networks: Alibaba, Oracle, Azure, AWS.
_METADATA: Final = frozenset(map(ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254")))


class StudioDownloads:
    """Fetches images from one Label Studio server with a token.

    Args:
        url: Address of the server, http or https, with the prefix of its paths if it has one.
        read_token: Function that returns the token. Blocking; it is called with each login.
        max_bytes: Size of the largest image, in bytes.
        timeout_s: Time limit for one image, in seconds.
    """

    def __init__(self, url: str, read_token: Callable[[], str], *, max_bytes: int, timeout_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._is_tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._netloc, self._prefix = parts.netloc, parts.path.rstrip("/")
        self._read_token = read_token
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._executor = TimedExecutor("download", _THREADS)
        self._tls = ssl.create_default_context() if self._is_tls else None
        self._lock = threading.Lock()
        self._access = ""  # access token of the personal access token

    async def read(self, path: str, timings: Timings) -> bytes:
        """Return the bytes of an image.

        Args:
            path: Path and query below the address of the server, without a slash at the start.
            timings: Stage timings of the current request.

        Raises:
            InvalidRequest: The server does not have the image, or refuses the token, or redirects.
            BodyTooLarge: The image has more bytes than an upload may have.
            ImageSourceUnavailable: The server cannot be reached, is too slow, or fails.
        """
        return await self._executor.run(timings, self._read, path, monotonic() + self._timeout_s, timings)

    def close(self) -> None:
        """Wait for running downloads and end the threads."""
        self._executor.close()

    def _read(self, path: str, deadline: float, timings: Timings) -> bytes:
        with timings.measure("download"):
            token = self._token()
            is_jwt = _JWT.fullmatch(token) is not None
            authorization = f"Bearer {self._access or self._log_in(token, deadline)}" if is_jwt else f"Token {token}"
            status, data = self._request("GET", path, deadline, self._max_bytes, authorization)
            if status == HTTPStatus.UNAUTHORIZED and is_jwt:
                authorization = f"Bearer {self._log_in(token, deadline)}"  # the access token has expired
                status, data = self._request("GET", path, deadline, self._max_bytes, authorization)
            if status != HTTPStatus.OK:
                raise _refusal(status)
            return data

    def _token(self) -> str:
        """Return the token. It must not reach a header check of the library, whose messages quote the value."""
        try:
            token = self._read_token().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ImageSourceUnavailable("The token for Label Studio cannot be read from its file.") from error
        if not _TOKEN.fullmatch(token):
            raise ImageSourceUnavailable("The token for Label Studio is empty, or has characters that no token has.")
        return token

    def _log_in(self, token: str, deadline: float) -> str:
        """Exchange a personal access token for an access token. One thread does it for all."""
        before = self._access
        with self._lock:
            if self._access != before:
                return self._access
            content = json.dumps({"refresh": token}).encode()
            status, data = self._request("POST", "api/token/refresh/", deadline, _MAX_REFRESH_BYTES, content=content)
            if status != HTTPStatus.OK:
                raise _refusal(status)
            try:
                access = json.loads(data)["access"]
            except (ValueError, TypeError, KeyError, RecursionError):
                access = ""
            if not isinstance(access, str) or not _TOKEN.fullmatch(access):
                raise ImageSourceUnavailable("Label Studio answers the token with something else than an access token.")
            self._access = access
            return access

    def _request(
        self,
        method: str,
        path: str,
        deadline: float,
        max_bytes: int,
        authorization: str | None = None,
        *,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Return the status of an answer, and the body if the status is 200."""
        headers = {"Host": self._netloc, "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "edgesam"}
        if authorization is not None:
            headers["Authorization"] = authorization
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            with closing(self._connect(deadline)) as connected:
                connection = http.client.HTTPConnection(self._host, self._port)
                connection.sock = _BoundedSocket(connected, deadline)
                connection.request(method, f"{self._prefix}/{path}", content, headers)
                with closing(connection.getresponse()) as response:
                    is_wanted = response.status == HTTPStatus.OK
                    return response.status, _content(response, max_bytes) if is_wanted else b""
        except (OSError, http.client.HTTPException) as error:
            reason = "is too slow" if isinstance(error, TimeoutError) else f"fails ({type(error).__name__})"
            raise ImageSourceUnavailable(
                f"The connection to Label Studio {reason}. Check EDGESAM_LABEL_STUDIO_URL.", retry_after_s=5.0
            ) from None  # the message of the library may quote headers

    def _connect(self, deadline: float) -> socket.socket:
        """Return a connection to a checked address of the server."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        if not all(is_allowed(str(address[0]), name=self._host) for *_, address in found):
            raise ImageSourceUnavailable(
                "EDGESAM_LABEL_STUDIO_URL leads to an address at which no Label Studio can be: link-local, loopback, "
                "multicast or reserved."
            )
        failed: OSError = TimeoutError()
        for family, kind, protocol, _, address in found:
            left_s = deadline - monotonic()
            if left_s <= 0:
                break
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(min(_CONNECT_TIMEOUT_S, left_s))
                connected.connect(address)
                if self._tls is not None:
                    return self._tls.wrap_socket(connected, server_hostname=self._host)
            except OSError as error:
                connected.close()
                failed = error
                continue
            return connected
        raise failed


def read_token_from(file: Path) -> Callable[[], str]:
    """Return a function that reads a token from a file, anew with each call: an orchestrator may exchange it.

    Args:
        file: File that contains the token and white space at most.
    """
    return lambda: read_regular_file(file, _MAX_TOKEN_BYTES, follows_links=True).decode("ascii")


def is_allowed(address: str, *, name: str) -> bool:
    """Return whether Label Studio can be at an IP address. Private networks are allowed: it is mostly in one.

    Args:
        address: IP address that the server's name was resolved to.
        name: Name or IP address from the setting. Loopback addresses are allowed only if it says so itself. Another
            name that leads to this machine would reach its other services.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return name == "localhost" or _is_loopback(name)
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved or ip in _METADATA)


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _content(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the body of an answer.

    Raises:
        BodyTooLarge: It has more than `max_bytes`. The rest is not read.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ImageSourceUnavailable("Label Studio sends the image compressed, which was not asked for.")
    content = io.BytesIO()
    while content.tell() <= max_bytes >= (response.length or 0):
        chunk = response.read(min(_CHUNK_BYTES, max_bytes + 1 - content.tell()))
        if not chunk:
            break
        content.write(chunk)
    else:
        raise BodyTooLarge(
            f"The image has more than {max_bytes} bytes. Use a smaller file.", extra={"limit": max_bytes}
        )
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return content.getvalue()


def _refusal(status: int) -> InvalidRequest | ImageSourceUnavailable:
    """Return the problem for an answer of Label Studio without an image."""
    where = "/tasks/0/data"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return broken_rule(
            where,
            f"Label Studio does not give the image to the token of this service (status {status}). Check "
            "EDGESAM_LABEL_STUDIO_TOKEN, and that its user may see the project.",
        )
    if status == HTTPStatus.NOT_FOUND:
        return broken_rule(where, "Label Studio has no such image (status 404).")
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return broken_rule(
            where,
            f"Label Studio redirects to another address (status {status}), which is not followed. Switch off "
            "pre-signed URLs in the settings of the cloud storage, and set EDGESAM_LABEL_STUDIO_URL to the final "
            "address of Label Studio.",
        )
    return ImageSourceUnavailable(f"Label Studio fails to give the image (status {status}).", retry_after_s=5.0)


class _BoundedReader(io.RawIOBase):
    """Reads from a socket until a deadline. A timeout of the socket alone would begin anew with every byte."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected = connected
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connected.settimeout(left_s)
        return self._connected.recv_into(buffer)


class _BoundedSocket:
    """What http.client uses of a socket, with a deadline for reading."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected = connected
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(max(0.001, self._deadline - monotonic()))
        self._connected.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._connected, self._deadline))

    def close(self) -> None:
        """Do nothing: http.client closes its socket before the answer is read. `_request` closes the real one."""
