"""What both clients have in common on the network's side: address, key, and the bounds of one attempt."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from service import __version__
from service.client.errors import UnexpectedAnswer, Unreachable
from service.client.messages import Answer, Request

_CONNECT_TIMEOUT_S: Final = 5.0
# No answer comes near; it bounds what a stranger can make us keep.
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024


class Connection:
    """Where the service is and what goes with every request.

    Args:
        url, api_key, timeout_s: see `Client`.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is no address of a service ({error}).") from error
        if address.scheme not in {"http", "https"} or not address.host:
            raise ValueError(f"{url!r} is no address of a service; one looks like http://127.0.0.1:8000.")
        headers = {"User-Agent": f"edgesam-client/{__version__}"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
                raise ValueError("An API key is made of visible ASCII characters.")
            headers["Authorization"] = f"Bearer {api_key}"
        self.timeout_s = timeout_s
        # Without user name and password, which must reach no terminal and no log.
        self.shown_url = str(address.copy_with(userinfo=b"", query=None, fragment=None))
        self.options: dict[str, Any] = {
            "base_url": address.copy_with(query=None, fragment=None),
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            "follow_redirects": False,  # a key must not follow to where it does not belong
        }

    def attempt(self) -> "Attempt":
        """One attempt, whose time begins now."""
        return Attempt(self.shown_url, self.timeout_s)


class Attempt:
    """One request on its way: what has come of it, and the bounds of its time and of its answer's size."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._pieces: list[bytes] = []
        self._received = 0
        self._ends_at = self._started + timeout_s

    def sending(self, request: Request, upload: Callable[[Request], Any]) -> dict[str, Any]:
        """The arguments of httpx's `stream`; `upload` gives a long body in pieces."""
        headers, content = dict(request.headers), request.body or None
        if request.is_upload:
            headers["Content-Length"] = str(len(request.body))
            content = upload(request)
        return {"method": request.method, "url": request.path, "headers": headers, "content": content}

    def upload(self, request: Request) -> Iterator[bytes]:
        """The body in pieces, for as long as there is time."""
        for piece in request.pieces():
            self._check_time()
            yield piece

    async def upload_async(self, request: Request) -> AsyncIterator[bytes]:
        """`upload` for an event loop."""
        for piece in request.pieces():
            yield piece

    def receive(self, piece: bytes) -> None:
        """Keep some of the answer's body."""
        self._check_time()
        self._pieces.append(piece)
        self._received += len(piece)
        if self._received > _MAX_ANSWER_BYTES:
            raise UnexpectedAnswer(f"{self._url} sends more than {_MAX_ANSWER_BYTES} bytes in answer to one request.")

    def answer(self, response: httpx.Response) -> Answer:
        """What has been received, after its last byte."""
        headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, b"".join(self._pieces), time.monotonic() - self._started)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """What httpx raises as what the caller is told."""
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
        """httpx bounds each wait for the network; this bounds their sum."""
        if time.monotonic() > self._ends_at:
            raise TimeoutError
