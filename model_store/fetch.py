"""Downloads one file of known length and hash: resumable, from several mirrors, with a bound on every wait.

Nothing appears under the final name before its SHA-256 is right.
"""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from model_store.catalog import ModelStoreError, UsageError, file_sha256
from model_store.part import Part, open_part

Progress = Callable[[int, int], None]
Notice = Callable[[str], None]

RETRY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(ModelStoreError):
    """No mirror gave the file; the message names each mirror and its reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait and how often to try.

    Args:
        connect_s: for a connection.
        read_s: between two pieces of a response.
        stall_s: in this time at least `stall_bytes` must arrive, so that a trickle is not taken for progress.
        stall_bytes: see `stall_s`.
        rounds: how often the mirrors are gone through.
        backoff_s: wait before the second round; it doubles with every round.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    stall_s: float = 60.0
    stall_bytes: int = 256 * 1024
    rounds: int = 4
    backoff_s: float = 1.0


def fetch(
    urls: tuple[str, ...],
    destination: Path,
    *,
    size_bytes: int,
    sha256: str,
    limits: Limits | None = None,
    progress: Progress = lambda _done, _total: None,
    notice: Notice = lambda _message: None,
) -> Path:
    """Bring one file here, or go on where an earlier call stopped.

    The mirrors are tried in order, several rounds of them. A mirror that gives the wrong bytes or has no such file is
    not asked again; one that breaks off or does not answer is asked again in the next round. A part that one mirror
    began is continued from another, since the hash decides in the end.

    Args:
        urls: the same file at each; https, or http to this machine.
        destination: where the file will be; its directory is made. What is already there is checked, not trusted.
        size_bytes: exact length; no byte beyond it is ever written.
        sha256: of the whole file, lower-case hex.
        limits: bounds of waiting and trying.
        progress: told (bytes here, bytes in all) after every piece.
        notice: told in a sentence when a mirror fails.

    Returns:
        The destination.

    Raises:
        UsageError: a URL that is not allowed.
        FetchError: no mirror gave the file. What arrived stays in `<destination>.part` unless it was wrong.
        PartInUseError: another process is fetching it.
        OSError: the disk refused.
    """
    for url in urls:
        if problem := _url_problem(url):
            raise UsageError(f"{shown_url(url)}: {problem}")
    if destination.exists():
        if destination.stat().st_size == size_bytes and file_sha256(destination) == sha256:
            progress(size_bytes, size_bytes)
            return destination
        notice(f"{destination} is not the expected file and will be replaced")
    limits = limits or Limits()
    with (
        open_part(destination) as part,
        httpx.Client(
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
            follow_redirects=True,
            max_redirects=5,
            event_hooks={"request": [_refuse_request]},
        ) as client,
    ):
        transfer = _Transfer(client, part, size_bytes, sha256, limits, progress)
        _from_any(transfer, list(urls), destination.name, notice)
        part.finish()
    return destination


def shown_url(url: httpx.URL | str) -> str:
    """The URL without credentials, query and fragment: those can be secrets and must not reach a terminal or a log."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx.InvalidURL:
        return "the given URL"


class _MirrorError(Exception):
    """This mirror does not have the file; asking it again is useless."""


class _BrokenOffError(Exception):
    """The transfer stopped; asking again makes sense."""


def _from_any(transfer: "_Transfer", urls: list[str], name: str, notice: Notice) -> None:
    """Fill the part from whichever mirror can; FetchError when none can."""
    reasons: dict[str, str] = {}
    for round_number in range(transfer.limits.rounds):
        if round_number:
            time.sleep(transfer.limits.backoff_s * 2 ** (round_number - 1))
        for url in tuple(urls):
            try:
                transfer.run(url)
            except _MirrorError as error:
                urls.remove(url)
                reasons[url] = str(error)
            except _BrokenOffError as error:
                reasons[url] = str(error)
            else:
                return
            notice(f"{shown_url(url)}: {reasons[url]}")
        if not urls:
            break
    tried = "; ".join(f"{shown_url(url)}: {reason}" for url, reason in reasons.items())
    kept = transfer.part.size_bytes()
    rest = f" ({kept} of {transfer.size_bytes} bytes are kept; the same command goes on from there)" if kept else ""
    raise FetchError(f"could not fetch {name}: {tried}{rest}")


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One file on its way into its part."""

    client: httpx.Client
    part: Part
    size_bytes: int
    sha256: str
    limits: Limits
    progress: Progress

    def run(self, url: str) -> None:
        """Make the part whole and right from this mirror, or say why not."""
        offset = self.part.size_bytes()
        if offset >= self.size_bytes:  # an earlier call was ended just before or amid the check
            if self.part.sha256() == self.sha256:
                return
            self.part.clear()
            offset = 0
        try:
            self._receive(url, offset)
        except httpx.TimeoutException as error:
            raise _BrokenOffError(f"no answer in time ({_words(error)})") from error
        except httpx.TransportError as error:
            raise _BrokenOffError(f"the connection failed ({_words(error)})") from error
        except httpx.TooManyRedirects as error:
            raise _MirrorError("too many redirects") from error
        self._check_hash(resumed=offset > 0)

    def _receive(self, url: str, offset: int) -> None:
        # identity: a length, a range and a hash of encoded bytes would all mean something else.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag := self.part.tag(url):
                headers["If-Range"] = etag
        with self.client.stream("GET", url, headers=headers) as response:
            self._check_head(response, offset)
            if response.status_code == httpx.codes.OK:  # the whole file, also when the rest was asked for
                self.part.clear()
            self.part.keep_tag(url, response.headers.get("ETag", ""))
            self._receive_body(response)

    def _check_head(self, response: httpx.Response, offset: int) -> None:
        if response.status_code in RETRY_STATUSES:
            raise _BrokenOffError(f"the server answered {response.status_code}")
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            self.part.clear()
            raise _BrokenOffError("the server could not go on from where the part ends; starting again")
        if response.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            raise _MirrorError(f"the server answered {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _MirrorError("the server sent an encoded body although it was asked not to")
        stated_range, _, total = response.headers.get("Content-Range", "").partition("/")
        if response.status_code == httpx.codes.OK:
            total = response.headers.get("Content-Length", "")
        elif not stated_range.startswith(f"bytes {offset}-"):
            raise _MirrorError("the server sent a different range than the one it was asked for")
        if total.isdecimal() and int(total) != self.size_bytes:
            raise _MirrorError(f"the file there has {total} bytes, {self.size_bytes} were expected")

    def _receive_body(self, response: httpx.Response) -> None:
        position = window_position = self.part.size_bytes()
        window_start = time.monotonic()
        self.progress(position, self.size_bytes)
        for piece in response.iter_raw():
            if position + len(piece) > self.size_bytes:
                self.part.clear()
                raise _MirrorError(f"the body is longer than the expected {self.size_bytes} bytes")
            self.part.append(piece)
            position += len(piece)
            self.progress(position, self.size_bytes)
            if time.monotonic() - window_start > self.limits.stall_s:
                arrived = position - window_position
                if arrived < self.limits.stall_bytes and position < self.size_bytes:
                    raise _BrokenOffError(f"too slow: {arrived} bytes in {self.limits.stall_s:g} s")
                window_start, window_position = time.monotonic(), position
        if position < self.size_bytes:
            raise _BrokenOffError(f"the body ended after {position} of {self.size_bytes} bytes")

    def _check_hash(self, *, resumed: bool) -> None:
        actual = self.part.sha256()
        if actual == self.sha256:
            return
        self.part.clear()
        reason = f"wrong SHA-256: expected {self.sha256}, got {actual}; the file was removed"
        # The first bytes may have come from elsewhere: only a whole transfer shows that this mirror is wrong.
        raise _BrokenOffError(reason) if resumed else _MirrorError(reason)


def _url_problem(url: httpx.URL | str) -> str | None:
    """Only https carries a model over a network; http is for a mirror on this machine."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        return f"not a URL ({error})"
    if parsed.host and (parsed.scheme == "https" or (parsed.scheme == "http" and _is_loopback(parsed.host))):
        return None
    return "only https is allowed, and http to this machine"


def _refuse_request(request: httpx.Request) -> None:
    """Asked before every request, so that a redirect cannot lead to where a given URL may not."""
    if problem := _url_problem(request.url):
        raise _MirrorError(f"redirected to {shown_url(request.url)}: {problem}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
