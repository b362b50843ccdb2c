"""Sends answers in pieces at the speed of the client, and closes the connection of a client that is too slow."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

# The server's `send` waits while more than about this much is unsent, but takes a message of any size. A large answer
# in one message would fill its buffer, uncounted, for as long as the client does not read. In bytes.
PIECE_BYTES = 64 * 1024

# The ASGI extension of our server. Its `abort()` closes the connection at once, without sending the rest. Its
# `is_held_back()` returns whether `send` would wait for the client.
CONNECTION = "service.connection"

_ABORT_TIMEOUT_S = 1.0


class AnswerTimeout(Exception):
    """The client did not take its answer in time."""


class Answer:
    """The answer to one request.

    Args:
        send: ASGI `send` of the server.
        timeout_s: Time in which the client has to take the answer, in seconds.
        is_held_back: Function that returns whether `send` would wait now. If not, no timer is set: it would cost a
            tenth of an empty request.

    Attributes:
        status: HTTP status that was sent; 0 before.
        is_complete: Whether the server has taken the last piece.
        is_disconnected: Event that is set when the client has closed the connection.
    """

    def __init__(self, send: Send, *, timeout_s: float, is_held_back: Callable[[], bool] = lambda: True) -> None:
        self.status = 0
        self.is_complete = False
        self.is_disconnected = asyncio.Event()
        self._send = send
        self._timeout_s = timeout_s
        self._is_held_back = is_held_back
        self._waited_s = 0.0

    async def send(self, message: Message) -> None:
        """Send one message of the application, a large one in pieces.

        Args:
            message: ASGI message of the answer.

        Raises:
            AnswerTimeout: The service has waited for the client for more than `timeout_s` in all. The time in which an
                answer is computed piece by piece does not count.
            ClientDisconnect: The client has closed the connection.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            is_small = len(message.get("body", b"")) <= PIECE_BYTES
            for piece in (message,) if is_small else _pieces(message):
                if self._is_held_back():
                    await self._wait_for_client(piece)
                else:
                    await self._send_piece(piece)
        except TimeoutError as error:
            raise AnswerTimeout from error

    async def _wait_for_client(self, piece: Message) -> None:
        started = monotonic()
        async with asyncio.timeout(self._timeout_s - self._waited_s):
            await self._send_piece(piece)
        self._waited_s += monotonic() - started

    async def _send_piece(self, piece: Message) -> None:
        if self.is_disconnected.is_set():
            raise ClientDisconnect
        await self._send(piece)
        is_body = piece["type"] == "http.response.body"
        self.is_complete = is_body and not piece.get("more_body", False)
        if is_body and not self.is_complete:
            # A server that need not wait does not yield. Yielding here lets other requests run, and a disconnect is
            # noticed. Yielding after the start would send a small answer in two packets.
            await asyncio.sleep(0)


def answer_over(scope: Scope, send: Send, *, timeout_s: float) -> Answer:
    """Return the answer to a request. Without our server's extension, each message gets a timer.

    Args:
        scope: ASGI scope of the request.
        send: ASGI `send` of the server.
        timeout_s: Time in which the client has to take the answer, in seconds.
    """
    connection = scope.get("extensions", {}).get(CONNECTION)
    if connection is None:
        return Answer(send, timeout_s=timeout_s)
    return Answer(send, timeout_s=timeout_s, is_held_back=connection["is_held_back"])


async def abort_connection(scope: Scope, receive: Receive) -> None:
    """Close the connection without sending the rest, and wait until the server has noticed, so that it logs no error.

    A server without our extension closes the connection when the application returns and the client has read.

    Args:
        scope: ASGI scope of the request.
        receive: ASGI `receive` of the server.
    """
    abort = scope.get("extensions", {}).get(CONNECTION, {}).get("abort")
    if abort is None:
        return
    abort()
    until = asyncio.get_running_loop().time() + _ABORT_TIMEOUT_S
    with suppress(TimeoutError):
        try:
            await _until_disconnect(receive, until)
        except asyncio.CancelledError:
            # A server that shuts down cancels the requests it has waited for, and its loop cancels the rest at its end.
            await _until_disconnect(receive, until)


async def _until_disconnect(receive: Receive, until: float) -> None:
    async with asyncio.timeout_at(until):
        while (await receive())["type"] != "http.disconnect":
            pass


def _pieces(message: Message) -> Iterator[Message]:
    """Yield a message as messages of at most PIECE_BYTES, without copying the body."""
    view = memoryview(message["body"])
    is_followed = message.get("more_body", False)
    for start in range(0, len(view), PIECE_BYTES):
        end = start + PIECE_BYTES
        yield {**message, "body": view[start:end], "more_body": is_followed or end < len(view)}
