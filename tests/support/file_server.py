"""A real HTTP server on this machine that serves files and simulates the faults that a test selects."""

import contextlib
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PIECE_BYTES = 4096
MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to requests for one path.

    Args:
        data: Content of the file, or body of a redirect.
        status: Status. The body is empty unless it is 200.
        etag: Value of the ETag header. Empty: no header.
        has_ranges: Whether the server supports Range.
        is_chunked: Whether the body is chunked instead of having a Content-Length.
        break_after: Number of bytes of the body after which the connection closes.
        stall_after: Number of bytes of the body after which the server sends nothing until it closes.
        trickle_s: Pause after each byte, in seconds.
        head_trickle_s: Pause after each line of an endless head, in seconds.
        redirect_to: Location of a 302 response.
        range_shift: Offset error of a partial body, in bytes.
        content_encoding: Value of the Content-Encoding header. The body is not encoded.
    """

    data: bytes = b""
    status: int = 200
    etag: str = '"first"'
    has_ranges: bool = True
    is_chunked: bool = False
    break_after: int | None = None
    stall_after: int | None = None
    trickle_s: float | None = None
    head_trickle_s: float | None = None
    redirect_to: str = ""
    range_shift: int = 0
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A received request."""

    path: str
    headers: dict[str, str]


class FileServer:
    """The server; a context manager.

    Attributes:
        replies: Responses by path. They may be changed at any time.
        requests: Received requests.
        stalled: Set when a body has stopped at `stall_after`.
        closing: Set when the server closes.
    """

    def __init__(self, **replies: Reply) -> None:
        self.replies = replies
        self.requests: list[Request] = []
        self.stalled = threading.Event()
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            files = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def url(self, name: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        self.files.requests.append(Request(name, dict(self.headers)))
        answer = self.files.replies.get(name, Reply(status=404))
        self.close_connection = True
        with contextlib.suppress(ConnectionError):  # a client may disconnect at any time
            self._answer(answer)

    def log_message(self, *args: object) -> None:
        """Write no log."""

    def _answer(self, answer: Reply) -> None:
        if answer.head_trickle_s is not None:
            self.send_response(200)
            while not self.files.closing.wait(answer.head_trickle_s):
                self.send_header("X-More", "1")
                self.flush_headers()
            return
        if answer.status != 200 or answer.redirect_to:
            self.send_response(302 if answer.redirect_to else answer.status)
            if answer.redirect_to:
                self.send_header("Location", answer.redirect_to)
            body = answer.data if answer.redirect_to else b""
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self._send(answer, body)
            return
        start = self._start(answer)
        body = answer.data[start:]
        if start == len(answer.data) and start:
            self.send_response(416)
        elif start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(answer.data) - 1}/{len(answer.data)}")
        else:
            self.send_response(200)
        self.send_header("Connection", "close")
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if answer.content_encoding:
            self.send_header("Content-Encoding", answer.content_encoding)
        if answer.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send(answer, body)

    def _start(self, answer: Reply) -> int:
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked is None or not answer.has_ranges or (condition is not None and condition != answer.etag):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-")) + answer.range_shift

    def _send(self, answer: Reply, body: bytes) -> None:
        stop = next((n for n in (answer.break_after, answer.stall_after) if n is not None), len(body))
        step = PIECE_BYTES if answer.trickle_s is None else 1
        for offset in range(0, min(stop, len(body)), step):
            piece = body[offset : min(offset + step, stop)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.is_chunked else piece)
            if answer.trickle_s is not None and self.files.closing.wait(answer.trickle_s):
                return
        if answer.stall_after is not None:
            self.files.stalled.set()
            self.files.closing.wait(MAX_WAIT_S)
        elif answer.is_chunked and answer.break_after is None:
            self.wfile.write(b"0\r\n\r\n")
