"""What one client may do to the process by its connections alone, before anything it sends is a request."""

import asyncio
import logging
import resource
import secrets
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import orjson
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.middleware.sending import CONNECTION
from service.api.problems import problem_response
from service.errors import HeadTimeout, HeadTooLarge, MalformedHead, Overloaded, ServiceError

logger = logging.getLogger("service")

# Files beside connections: model, log, Redis, metrics, and whatever libraries open for a moment.
_RESERVED_FILES = 64
_FULL_EVERY_S = 10.0
# Clients that send all of a body before they look for an answer would otherwise not see why it was refused.
_LINGER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """From the settings.

    Args:
        max_connections: at the same time; see `raise_file_limit`.
        head_timeout_s: time from the opening of a connection, or the first byte of a further request, until the head
            of the request is complete.
        max_head_bytes: of request line and headers.
    """

    max_connections: int
    head_timeout_s: float
    max_head_bytes: int


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with the bounds that uvicorn leaves to a proxy in front, and with `abort`.

    Uvicorn waits for a head without limit, in time as in bytes, and for the first byte, too; it reads on for ever what
    a client sends of a request that has been answered. And what it does with an answer that is not complete, close the
    connection once everything is sent, never ends with a client that does not read: the connection and what is
    buffered for it would stay. For that it lends the app `abort`, in the ASGI extension `service.connection`.

    A head that comes in one piece, as those of clicks do, costs no timer: only what is incomplete when its first piece
    has been read starts one.
    """

    bounds: ClassVar[ConnectionBounds | None] = None
    """None, as it is without `within`, lets everybody take what they want."""

    _full_until: ClassVar[float] = 0.0
    """When the log may next say that there are too many connections."""

    @classmethod
    def within(cls, bounds: ConnectionBounds) -> type["BoundedProtocol"]:
        """The protocol with bounds; uvicorn makes its objects by itself, so they are the class's."""
        return type(cls.__name__, (cls,), {"bounds": bounds})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = self._is_in_body = False
        self._has_ended = False
        """A request ended in this piece: what was read is its own, not the next one's."""
        self._has_body = False
        """Bytes of a body were in this piece, which their reader counts."""
        self._trailer_bytes = 0
        self._unanswered_bytes = 0
        """Of a head, or of a body whose request has been answered already."""
        self._piece_bytes = 0
        self._lent: dict[object, object] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._refusal: ServiceError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        flow = self.flow

        def is_held_back() -> bool:  # no method: in its own scope this object would hold itself
            return flow.write_paused

        self._lent = {"abort": transport.abort, "is_held_back": is_held_back}
        if self.bounds is None:
            return
        if len(self.connections) > self.bounds.max_connections:
            self._refuse_for_lack_of_room(self.bounds.max_connections)
        else:
            self._start_patience(self.bounds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._stop_patience()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._refusal is not None:
            return
        self._piece_bytes = len(data)
        self._has_ended = self._has_body = False
        super().data_received(data)
        if self.bounds is None:
            return
        if self._is_in_head:
            # Of a piece that also ends another request nobody knows how much is head; `on_headers_complete` counts it.
            self._nobody_waits_for(0 if self._has_ended else len(data), self.bounds)
        elif not self._has_ended and (self.cycle is None or self.cycle.response_complete):
            self._nobody_waits_for(len(data), self.bounds)
        elif self._is_in_body and not self._has_body:
            self._count_trailers(len(data), self.bounds)

    def on_message_begin(self) -> None:
        """Called by the parser at the start of each request."""
        super().on_message_begin()
        self._is_in_head = True
        self._unanswered_bytes = 0
        self.scope["extensions"] = {CONNECTION: self._lent}

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head, self._is_in_body = False, True
        if self._patience is not None:
            self._stop_patience()
        # The sum tells whether counting is worth it: it is not for a click.
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
            # The rest of a body whose request was answered before: the connection is idle from here on, and uvicorn,
            # which took those bytes for the next request, waits for nothing any more.
            self._stop_patience()
            self._unanswered_bytes = 0
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn when it has all of an answer, sent or not."""
        super().on_response_complete()
        self._bound_the_end()

    def timeout_keep_alive_handler(self) -> None:
        """Called by the loop when the connection was idle for too long."""
        super().timeout_keep_alive_handler()
        self._bound_the_end()

    def shutdown(self) -> None:
        """Called by uvicorn when the process stops."""
        super().shutdown()
        self._bound_the_end()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what its parser does not take; answers as everything else here does."""
        self._refuse(self._refusal or MalformedHead(f"{msg} Send HTTP/1.1."))

    def _nobody_waits_for(self, received: int, bounds: ConnectionBounds) -> None:
        """A piece has been read that belongs to no request in progress."""
        if self.transport.is_closing():
            return
        self._unanswered_bytes += received
        if self._is_in_body:
            if self._unanswered_bytes > _LINGER_BYTES:
                self._hang_up()
                return
        elif self._unanswered_bytes > bounds.max_head_bytes:
            self._refuse(_too_large(bounds.max_head_bytes))
            return
        if self._patience is None:
            self._start_patience(bounds)

    def _start_patience(self, bounds: ConnectionBounds) -> None:
        self._patience = self.loop.call_later(bounds.head_timeout_s, self._give_up, bounds)

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self, bounds: ConnectionBounds) -> None:
        """The head, or the rest of an answered body, is not complete in time."""
        self._patience = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_patience(bounds)  # it was sent ahead, and the request before it is still being answered
        elif self._is_in_head:
            message = f"The head of the request was not complete after {bounds.head_timeout_s:g} s. Send it at once."
            self._refuse(HeadTimeout(message))
        else:
            self._hang_up()  # there is nothing to answer

    def _refuse_for_lack_of_room(self, limit: int) -> None:
        now = self.loop.time()
        if now > BoundedProtocol._full_until:
            BoundedProtocol._full_until = now + _FULL_EVERY_S
            logger.warning("connections are refused", extra={"limit": limit})
        message = f"{limit} connections are open, the most this process holds. Retry shortly."
        self._refuse(Overloaded(message, retry_after_s=1.0, extra={"limit": limit}))

    def _refuse(self, error: ServiceError) -> None:
        """Answer without the app, and hang up."""
        self._refusal = error
        self._stop_patience()
        if self.transport.is_closing():
            return
        is_alone = self.cycle is not None and not self.cycle.response_started and not self.pipeline
        if self.cycle is None or self.cycle.response_complete or is_alone:
            self.transport.write(_as_bytes(problem_response(error, secrets.token_hex(8))))
        self._hang_up()

    def _count_trailers(self, received: int, bounds: ConnectionBounds) -> None:
        """A piece of a chunked body without any body in it: trailers, which the parser collects and nobody reads."""
        self._trailer_bytes += received
        if self._trailer_bytes > bounds.max_head_bytes:
            self.transport.abort()

    def _hang_up(self) -> None:
        self.transport.close()
        self._bound_the_end()

    def _bound_the_end(self) -> None:
        """A closed connection whose client does not read what is left for it would stay for ever."""
        if self.bounds is not None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._stop_patience()
            self._patience = self.loop.call_later(self.bounds.head_timeout_s, self.transport.abort)


def raise_file_limit(max_connections: int) -> int:
    """Let the process open as many files as it may; the connections there is room for, at most `max_connections`.

    Shells and containers often start with 1024 and allow more. At the limit not only clients would be refused, but
    Redis and the disk as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max_connections if soft == resource.RLIM_INFINITY else max(1, min(max_connections, soft - _RESERVED_FILES))


def _too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(
        f"Request line and headers have more than {limit} bytes. Send what is large in the body.",
        extra={"limit": limit},
    )


_REASONS: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def _as_bytes(response: Response) -> bytes:
    """An answer as it goes over the wire, and the end of the connection announced."""
    request_id = orjson.loads(bytes(response.body))["instance"].encode()
    headers = [*response.raw_headers, (b"x-request-id", request_id), (b"connection", b"close")]
    reason = _REASONS.get(response.status_code, b"Service Unavailable")
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (response.status_code, reason, head, bytes(response.body))
