"""A real HTTP server on this machine that serves bytes, and goes wrong in whatever way a test asks for."""

import contextlib
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PIECE_BYTES = 4096
MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one path answers.

    Args:
        data: the whole file.
        status: anything but 200 is answered with an empty body.
        etag: sent as it stands; empty: none.
        has_ranges: whether Range is understood.
        is_chunked: whether the length stays unsaid.
        break_after: this many bytes of the body, then the connection is closed.
        stall_after: this many bytes of the body, then nothing until the server closes.
        trickle_s: seconds between single bytes.
        redirect_to: a Location, answered with 302.
        range_shift: how far from the asked offset a partial body really starts.
        content_encoding: stated, not applied.
    """

    data: bytes = b""
    status: int = 200
    etag: str = '"first"'
    has_ranges: bool = True
    is_chunked: bool = False
    break_after: int | None = None
    stall_after: int | None = None
    trickle_s: float | None = None
    redirect_to: str = ""
    range_shift: int = 0
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    path: str
    headers: dict[str, str]


class FileServer:
    """Use as a context manager; `answers` may be changed at any time.

    `stalled` is set when a body has stopped at `stall_after`.
    """

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self.stalled = threading.Event()
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            files = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def url(self, name: str) -> str:
        """Address of an answer."""
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
        answer = self.files.answers.get(name, Answer(status=404))
        self.close_connection = True
        with contextlib.suppress(ConnectionError):  # the client has gone, which is its right
            self._answer(answer)

    def log_message(self, *args: object) -> None:
        """Silence."""

    def _answer(self, answer: Answer) -> None:
        if answer.status != 200 or answer.redirect_to:
            self.send_response(302 if answer.redirect_to else answer.status)
            if answer.redirect_to:
                self.send_header("Location", answer.redirect_to)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
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

    def _start(self, answer: Answer) -> int:
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked is None or not answer.has_ranges or (condition is not None and condition != answer.etag):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-")) + answer.range_shift

    def _send(self, answer: Answer, body: bytes) -> None:
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
