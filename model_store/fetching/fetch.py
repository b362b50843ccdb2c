"""Downloads one file of known hash: resumable, from several mirrors, with a bound on every wait.

The file gets its final name only after its SHA-256 was checked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from model_store.catalogue.entries import file_sha256
from model_store.errors import ModelStoreError, UsageError
from model_store.fetching.mirrors import MirrorError, refuse_redirect, shown_url, url_problem
from model_store.fetching.partial_download import PartialDownload, open_partial_download

OnProgress = Callable[[int, int | None], None]
OnNotice = Callable[[str], None]

_MAX_LENGTH_DIGITS: Final = 18
RETRY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(ModelStoreError):
    """No mirror sent the file; the message names each mirror and its reason.

    Args:
        message: The message.
        is_other_file: Whether a mirror has a file of that name whose length or SHA-256 is another one.
    """

    def __init__(self, message: str, *, is_other_file: bool = False) -> None:
        super().__init__(message)
        self.is_other_file = is_other_file


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts and numbers of attempts.

    Args:
        connect_s: Timeout of a connection, in seconds.
        read_s: Timeout between two chunks of a response, in seconds.
        stall_s: Period in which at least `stall_bytes` must arrive, in seconds; a slower transfer is given up.
        stall_bytes: Smallest number of bytes in a period of `stall_s`.
        rounds: Number of rounds through all mirrors.
        backoff_s: Wait before the second round, in seconds; it doubles with every round.
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
    size_bytes: int | None,
    sha256: str,
    max_bytes: int | None = None,
    limits: Limits | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
    on_notice: OnNotice = lambda _message: None,
) -> Path:
    """Download one file, or resume an earlier download of it.

    The mirrors are tried in order, in several rounds. A mirror that sends wrong bytes or has no such file is not tried
    again. A mirror that interrupts the transfer or does not respond is tried again in the next round. A partial
    download of one mirror is resumed from another, since the hash is checked in the end.

    Args:
        urls: Addresses of the same file; https, or http to this machine.
        destination: Path of the file; its directory is made. A file that is already there is checked.
        size_bytes: Exact length, in bytes; no byte beyond it is ever written. None if it is not known.
        sha256: SHA-256 of the file, lower-case hex.
        max_bytes: Largest length, in bytes, where `size_bytes` is None; no byte beyond it is ever written.
        limits: Timeouts and numbers of attempts; None for the defaults.
        on_progress: Callback that receives (bytes received, bytes in all) after every chunk. The second one is None
            while the length is not known.
        on_notice: Callback that receives a sentence when a mirror fails and another attempt or mirror follows.

    Returns:
        The destination.

    Raises:
        UsageError: A URL is not allowed.
        ValueError: Neither `size_bytes` nor `max_bytes` is given.
        FetchError: No mirror sent the file. Received bytes stay in `<destination>.part` unless they were wrong.
        DownloadInUseError: Another process is downloading the file.
        OSError: The file cannot be written.
    """
    largest = size_bytes or max_bytes
    if largest is None:
        raise ValueError("a download needs a bound: size_bytes or max_bytes")
    for url in urls:
        if problem := url_problem(url):
            raise UsageError(f"{shown_url(url)}: {problem}")
    if destination.exists():
        length = destination.stat().st_size
        if length == (size_bytes or length) and file_sha256(destination) == sha256:
            on_progress(length, length)
            return destination
        on_notice(f"{destination} is not the expected file and will be replaced")
    limits = limits or Limits()
    with (
        open_partial_download(destination) as partial,
        httpx.Client(
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
            follow_redirects=True,
            max_redirects=5,
            event_hooks={"response": [refuse_redirect]},
        ) as client,
    ):
        transfer = _Transfer(client, partial, size_bytes, largest, sha256, limits, on_progress)
        _try_mirrors(transfer, list(urls), destination.name, on_notice)
        partial.finish()
    return destination


class _OtherFileError(MirrorError):
    """The mirror has another file of that name."""


class _InterruptedError(Exception):
    """The transfer was interrupted; another attempt may succeed."""


def _try_mirrors(transfer: "_Transfer", urls: list[str], name: str, on_notice: OnNotice) -> None:
    """Complete the partial download from the first mirror that can; raise FetchError when none can."""
    reasons: dict[str, str] = {}
    is_other_file = False
    rounds = transfer.limits.rounds
    for round_number in range(1, rounds + 1):
        if round_number > 1:
            time.sleep(transfer.limits.backoff_s * 2 ** (round_number - 2))
        pending = tuple(urls)
        for url in pending:
            notice = ""
            try:
                transfer.run(url)
            except MirrorError as error:
                urls.remove(url)
                reasons[url] = str(error)
                is_other_file |= isinstance(error, _OtherFileError)
            except _InterruptedError as error:
                reasons[url] = str(error)
                if round_number < rounds:
                    notice = f"; attempt {round_number + 1} of {rounds} follows"
            else:
                return
            is_last = url == pending[-1] and (round_number == rounds or not urls)
            if not is_last:  # the error below names the reason
                on_notice(f"{shown_url(url)}: {reasons[url]}{notice}")
        if not urls:
            break
    tried = "; ".join(f"{shown_url(url)}: {reason}" for url, reason in reasons.items())
    kept = transfer.partial.size_bytes()
    whole = "" if transfer.size_bytes is None else f" of {transfer.size_bytes}"
    rest = f" ({kept}{whole} bytes are kept; the same command resumes from there)" if kept else ""
    raise FetchError(f"could not fetch {name}: {tried}{rest}", is_other_file=is_other_file)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Transfer of one file into its partial download."""

    client: httpx.Client
    partial: PartialDownload
    size_bytes: int | None
    max_bytes: int
    sha256: str
    limits: Limits
    on_progress: OnProgress

    def run(self, url: str) -> None:
        """Complete and check the partial download from this mirror.

        Raises:
            MirrorError: The mirror does not have the file.
            _InterruptedError: The transfer was interrupted.
        """
        offset = self.partial.size_bytes()
        if offset >= self.max_bytes:  # an earlier process ended just before or during the check
            if self.partial.sha256() == self.sha256:
                return
            self.partial.clear()
            offset = 0
        try:
            self._receive(url, offset)
        except httpx.TimeoutException as error:
            raise _InterruptedError(f"no response in time ({_error_text(error)})") from error
        except httpx.TransportError as error:
            raise _InterruptedError(f"the connection failed ({_error_text(error)})") from error
        except httpx.TooManyRedirects as error:
            raise MirrorError("too many redirects") from error
        self._check_hash(resumed=offset > 0)

    def _receive(self, url: str, offset: int) -> None:
        # Without compression: length, range and hash are those of the file itself.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag := self.partial.etag(url):
                headers["If-Range"] = etag
        with self.client.stream("GET", url, headers=headers) as response:
            if self._is_complete(response, offset):
                return
            total = self._check_head(response, offset)
            if response.status_code == httpx.codes.OK:  # the whole file, even if only the rest was requested
                self.partial.clear()
            self.partial.store_etag(url, response.headers.get("ETag", ""))
            self._receive_body(response, total)

    def _is_complete(self, response: httpx.Response, offset: int) -> bool:
        """Return whether the server has no byte beyond the received ones, and these are the file."""
        return (
            self.size_bytes is None
            and offset > 0
            and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
            and self.partial.sha256() == self.sha256
        )

    def _check_head(self, response: httpx.Response, offset: int) -> int | None:
        """Check the head of a response, and return the length of the whole file; None while it is not known."""
        if response.status_code in RETRY_STATUSES:
            raise _InterruptedError(f"the server responded with {response.status_code}")
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            self.partial.clear()
            raise _InterruptedError("the server could not resume the download; it starts again")
        if response.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            raise MirrorError(f"the server responded with {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise MirrorError("the server sent a compressed body although the request excluded that")
        stated_range, _, total = response.headers.get("Content-Range", "").partition("/")
        if response.status_code == httpx.codes.OK:
            total = response.headers.get("Content-Length", "")
        elif not stated_range.startswith(f"bytes {offset}-"):
            raise MirrorError("the server sent a different range than the requested one")
        stated = int(total) if total.isdecimal() and len(total) <= _MAX_LENGTH_DIGITS else None
        if stated is not None and stated != (self.size_bytes or stated):
            raise _OtherFileError(f"the file there has {total} bytes, {self.size_bytes} were expected")
        if stated is not None and stated > self.max_bytes:
            raise _OtherFileError(f"the file there has {total} bytes, at most {self.max_bytes} were expected")
        return self.size_bytes or stated

    def _receive_body(self, response: httpx.Response, total: int | None) -> None:
        """Append the body to the partial download.

        Args:
            response: Response whose head was checked.
            total: Length of the whole file, in bytes; None while it is not known.
        """
        position = window_position = self.partial.size_bytes()
        window_start = time.monotonic()
        self.on_progress(position, total)
        for chunk in response.iter_raw():
            if position + len(chunk) > (total or self.max_bytes):
                self.partial.clear()
                raise _OtherFileError(f"the body is longer than the expected {total or self.max_bytes} bytes")
            self.partial.append(chunk)
            position += len(chunk)
            self.on_progress(position, total)
            if time.monotonic() - window_start > self.limits.stall_s:
                arrived = position - window_position
                if arrived < self.limits.stall_bytes and position != total:
                    raise _InterruptedError(f"too slow: {arrived} bytes in {self.limits.stall_s:g} s")
                window_start, window_position = time.monotonic(), position
        if total is not None and position < total:
            raise _InterruptedError(f"the body ended after {position} of {total} bytes")

    def _check_hash(self, *, resumed: bool) -> None:
        actual = self.partial.sha256()
        if actual == self.sha256:
            return
        self.partial.clear()
        reason = f"wrong SHA-256: expected {self.sha256}, got {actual}; the file was removed"
        # The first bytes may be of another mirror: only a complete transfer shows that this mirror is wrong.
        raise _InterruptedError(reason) if resumed else _OtherFileError(reason)


def _error_text(error: Exception) -> str:
    return str(error) or type(error).__name__
