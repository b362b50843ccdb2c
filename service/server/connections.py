"""Bounds of connections: their number, the time and size of a request's head, and the bytes read after the answer."""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import orjson
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.middleware.sending import CONNECTION
from service.api.problems import problem_document, problem_of
from service.errors import HeadTimeout, HeadTooLarge, MalformedHead, Overloaded, ServiceError

logger = logging.getLogger("service")

_LOG_REFUSALS_EVERY_S = 10.0
# Rest of a body that is read after its request was refused. A client that first sends all of its body would otherwise
# see a closed connection instead of the answer.
_MAX_UNUSED_BODY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Limits of the connections of this process.

    Args:
        max_connections: Largest number of open connections; see `service.process.raise_file_limit`.
        head_timeout_s: Seconds from the start of a connection, or from the first byte of a further request, until
            request line and headers must be complete.
        max_head_bytes: Largest size of request line and headers together.
    """

    max_connections: int
    head_timeout_s: float
    max_head_bytes: int


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 of uvicorn with the bounds that uvicorn leaves to a proxy in front.

    uvicorn waits for request line and headers without a limit of time or size. It reads the rest of a body without a
    limit after the request was answered. When an answer is incomplete, it closes the connection after the buffer is
    sent. With a client that does not read, this never happens, and the connection and its buffer stay. Therefore the
    application gets `abort` in the ASGI extension `service.connection`.

    A head that arrives in one piece starts no timer. A timer starts only when the first piece leaves the head
    incomplete.
    """

    bounds: ClassVar[ConnectionBounds | None] = None
    """Limits of the connections; None, without `within`, for no limits."""

    _next_refusal_log_at: ClassVar[float] = 0.0
    """Time of the loop from which the log may say again that connections are refused."""

    @classmethod
    def within(cls, bounds: ConnectionBounds) -> type["BoundedProtocol"]:
        """Return a subclass with these bounds. uvicorn creates the objects, so that bounds belong to the class."""
        return type(cls.__name__, (cls,), {"bounds": bounds})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = self._is_in_body = False
        self._has_ended = False
        """Whether a request ended in the current piece. The piece then belongs to it and not to the next request."""
        self._has_body = False
        """Whether the current piece had bytes of a body. The reader of the body counts these."""
        self._trailer_bytes = 0
        self._unanswered_bytes = 0
        """Bytes of an incomplete head, or of a body whose request has been answered."""
        self._piece_bytes = 0
        self._extension: dict[object, object] = {}
        self._timeout: asyncio.TimerHandle | None = None
        self._refusal: ServiceError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        flow = self.flow

        def is_held_back() -> bool:  # a method would make a reference cycle of this object and its scope
            return flow.write_paused

        self._extension = {"abort": transport.abort, "is_held_back": is_held_back}
        if self.bounds is None:
            return
        if len(self.connections) > self.bounds.max_connections:
            self._refuse_connection(self.bounds.max_connections)
        else:
            self._start_timeout(self.bounds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._refusal is not None:
            return
        self._piece_bytes = len(data)
        self._has_ended = self._has_body = False
        super().data_received(data)
        if self.bounds is None:
            return
        if self._is_in_head:
            # A piece that also ends another request may hold any number of bytes of this head. They are counted in
            # `on_headers_complete`.
            self._count_unanswered(0 if self._has_ended else len(data), self.bounds)
        elif not self._has_ended and (self.cycle is None or self.cycle.response_complete):
            self._count_unanswered(len(data), self.bounds)
        elif self._is_in_body and not self._has_body:
            self._count_trailers(len(data), self.bounds)

    def on_message_begin(self) -> None:
        """Called by the parser at the start of each request."""
        super().on_message_begin()
        self._is_in_head = True
        self._unanswered_bytes = 0
        self.scope["extensions"] = {CONNECTION: self._extension}

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head, self._is_in_body = False, True
        if self._timeout is not None:
            self._stop_timeout()
        # Headers are counted one by one only where the bytes read exceed the limit.
        if self.bounds is not None and self._unanswered_bytes + self._piece_bytes > self.bounds.max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.bounds.max_head_bytes:
                self._refusal = _too_large(self.bounds.max_head_bytes)
                raise self._refusal  # the parser makes uvicorn call `send_400_response`
        self._unanswered_bytes = self._trailer_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._has_body = True
        self._trailer_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._is_in_body, self._has_ended = False, True
        if self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            # This was the rest of a body whose request was answered before. uvicorn took these bytes for the next
            # request and cancelled its timeout of idle connections. It is started again here.
            self._stop_timeout()
            self._unanswered_bytes = 0
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn when the application has given it the whole answer."""
        super().on_response_complete()
        self._bound_close()

    def timeout_keep_alive_handler(self) -> None:
        """Called by the event loop when the connection was idle for too long."""
        super().timeout_keep_alive_handler()
        self._bound_close()

    def shutdown(self) -> None:
        """Called by uvicorn when the process stops."""
        super().shutdown()
        self._bound_close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for bytes that its parser refuses; answers with a problem document."""
        self._refuse(self._refusal or MalformedHead(f"{msg} Send HTTP/1.1."))

    def _count_unanswered(self, received: int, bounds: ConnectionBounds) -> None:
        """Count a piece that belongs to no request in progress, and start the timeout or refuse it."""
        if self.transport.is_closing():
            return
        self._unanswered_bytes += received
        if self._is_in_body:
            if self._unanswered_bytes > _MAX_UNUSED_BODY_BYTES:
                self._close()
                return
        elif self._unanswered_bytes > bounds.max_head_bytes:
            self._refuse(_too_large(bounds.max_head_bytes))
            return
        if self._timeout is None:
            self._start_timeout(bounds)

    def _start_timeout(self, bounds: ConnectionBounds) -> None:
        self._timeout = self.loop.call_later(bounds.head_timeout_s, self._on_timeout, bounds)

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _on_timeout(self, bounds: ConnectionBounds) -> None:
        """Refuse a head that is incomplete in time; close a connection that still sends an answered body."""
        self._timeout = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timeout(bounds)  # pipelined: the request before it is still being answered
        elif self._is_in_head:
            message = f"The head of the request was not complete after {bounds.head_timeout_s:g} s. Send it at once."
            self._refuse(HeadTimeout(message))
        else:
            self._close()

    def _refuse_connection(self, limit: int) -> None:
        now = self.loop.time()
        if now > BoundedProtocol._next_refusal_log_at:
            BoundedProtocol._next_refusal_log_at = now + _LOG_REFUSALS_EVERY_S
            logger.warning("connections are refused", extra={"limit": limit})
        message = f"{limit} connections are open, the limit of this process. Retry shortly."
        self._refuse(Overloaded(message, retry_after_s=1.0, extra={"limit": limit}))

    def _refuse(self, error: ServiceError) -> None:
        """Answer without the application and close the connection."""
        self._refusal = error
        self._stop_timeout()
        if self.transport.is_closing():
            return
        is_alone = self.cycle is not None and not self.cycle.response_started and not self.pipeline
        if self.cycle is None or self.cycle.response_complete or is_alone:
            self.transport.write(_as_bytes(problem_document(problem_of(error), secrets.token_hex(8))))
        self._close()

    def _count_trailers(self, received: int, bounds: ConnectionBounds) -> None:
        """Count a piece of a chunked body that has no body bytes: the parser collects trailers without a limit."""
        self._trailer_bytes += received
        if self._trailer_bytes > bounds.max_head_bytes:
            self.transport.abort()

    def _close(self) -> None:
        self.transport.close()
        self._bound_close()

    def _bound_close(self) -> None:
        """Abort a closing connection in time; it would stay for ever with a client that does not read."""
        if self.bounds is not None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._stop_timeout()
            self._timeout = self.loop.call_later(self.bounds.head_timeout_s, self.transport.abort)


def _too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(
        f"Request line and headers have more than {limit} bytes. Send large values in the body.",
        extra={"limit": limit},
    )


_REASONS: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def _as_bytes(response: Response) -> bytes:
    """Return the bytes of an answer, with `Connection: close`."""
    request_id = orjson.loads(bytes(response.body))["instance"].encode()
    headers = [*response.raw_headers, (b"x-request-id", request_id), (b"connection", b"close")]
    reason = _REASONS.get(response.status_code, b"Service Unavailable")
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (response.status_code, reason, head, bytes(response.body))
