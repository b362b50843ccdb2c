"""Settings of the connection, and one attempt at a request with its limits of time and size."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from .errors import UnexpectedAnswer, Unreachable
from .messages import Answer, OnLine, Request
from .version import __version__

_CONNECT_TIMEOUT_S: Final = 5.0
# Far above the service's responses. It limits the memory that another server can make the client use.
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_MAX_LINE_BYTES: Final = 32 * 1024 * 1024


class Connection:
    """Address, headers and time limits of all requests.

    Args:
        url: Address of the service, with its path prefix.
        api_key: API key, if the service needs one.
        timeout_s: Time limit of one attempt, in seconds.

    Raises:
        ValueError: if the address or the API key is malformed.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is not the address of a service ({error}).") from error
        if address.scheme not in {"http", "https"} or not address.host:
            raise ValueError(f"{url!r} is not the address of a service. Give one such as http://127.0.0.1:8000.")
        headers = {"User-Agent": f"edgesam-client/{__version__}"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
                raise ValueError("An API key consists of visible ASCII characters.")
            headers["Authorization"] = f"Bearer {api_key}"
        self.timeout_s = timeout_s
        # For messages: user name and password must not appear on terminals and in logs.
        self.shown_url = str(address.copy_with(userinfo=b"", query=None, fragment=None))
        self.options: dict[str, Any] = {
            "base_url": address.copy_with(query=None, fragment=None),
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            "follow_redirects": False,  # an API key must not be sent to another address
        }

    def attempt(self, request: Request) -> "Attempt":
        """Start one attempt, whose time limit begins now."""
        return Attempt(self.shown_url, self.timeout_s, request.on_line)


class Attempt:
    """One attempt at a request: the body received so far, and the limits of its time and size.

    Args:
        url: Address of the service for messages, without user name and password.
        timeout_s: Time limit of the attempt, in seconds. If the answer is read by lines, the limit between two lines.
        on_line: Callback for each line of a success; None to keep the body.
    """

    def __init__(self, url: str, timeout_s: float, on_line: OnLine | None) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._on_line = on_line
        self._line = bytearray()
        self._started = time.monotonic()
        self._chunks: list[bytes] = []
        self._received = 0
        self._ends_at = self._started + timeout_s

    def sending(self, request: Request, upload: Callable[[Request], Any]) -> dict[str, Any]:
        """The arguments of httpx's `stream`. `upload` gives a long body in chunks."""
        headers, content = dict(request.headers), request.body or None
        if request.is_upload:
            headers["Content-Length"] = str(len(request.body))
            content = upload(request)
        return {"method": request.method, "url": request.path, "headers": headers, "content": content}

    def upload(self, request: Request) -> Iterator[bytes]:
        """The body in chunks, while there is time."""
        for chunk in request.chunks():
            self._check_time()
            yield chunk

    async def upload_async(self, request: Request) -> AsyncIterator[bytes]:
        """The body in chunks, for an event loop."""
        for chunk in request.chunks():
            yield chunk

    @property
    def seconds_left(self) -> float:
        """Seconds until the time limit."""
        return self._ends_at - time.monotonic()

    def receive(self, chunk: bytes, response: httpx.Response) -> None:
        """Add a chunk of the response's body, or pass on the lines that it completes.

        Raises:
            TimeoutError: if the time limit is exceeded.
            UnexpectedAnswer: if the body or a line is too large.
        """
        self._check_time()
        self._received += len(chunk)
        if self._received > _MAX_ANSWER_BYTES:
            raise UnexpectedAnswer(f"{self._url} sends more than {_MAX_ANSWER_BYTES} bytes in answer to one request.")
        if self._on_line is None or not response.is_success:
            self._chunks.append(chunk)
            return
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._line += end
            line = bytes(self._line)
            self._line.clear()
            self._ends_at = time.monotonic() + self._timeout_s
            self._on_line(line)
        self._line += rest
        if len(self._line) > _MAX_LINE_BYTES:
            raise UnexpectedAnswer(f"{self._url} sends a line of more than {_MAX_LINE_BYTES} bytes.")

    def answer(self, response: httpx.Response) -> Answer:
        """The answer, after the last byte of its body."""
        headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, b"".join(self._chunks), time.monotonic() - self._started)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Convert httpx's errors to the client's.

        Raises:
            Unreachable: if there is no connection, or no answer in time.
            UnexpectedAnswer: if the body cannot be decoded.
        """
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            waited_s = time.monotonic() - self._started
            raise Unreachable(f"{self._url} did not answer in {waited_s:.1f} s.") from error
        except httpx.DecodingError as error:
            raise UnexpectedAnswer(f"{self._url} sends a body that cannot be decoded ({error}).") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self._url} cannot be reached: {reason}.") from error

    def _check_time(self) -> None:
        """Limit the time of the whole attempt; httpx limits only each wait for the network."""
        if time.monotonic() > self._ends_at:
            raise TimeoutError
