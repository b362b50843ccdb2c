"""An answer on its way out: in pieces that the client's pace holds back, and not for ever."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

# A server's `send` waits while more than about this much is unsent, but takes whatever one message holds: a large
# answer in one message would lie in its buffer, in nobody's books, for as long as the client does not read.
PIECE_BYTES = 64 * 1024

# The ASGI extension of our server. It lends `abort()`, close the connection now, without what is unsent, and
# `is_held_back()`, whether `send` would wait for the client.
CONNECTION = "service.connection"

_ABORT_TIMEOUT_S = 1.0


class AnswerTimeout(Exception):
    """The client did not take its answer in time."""


class Answer:
    """The answer to one request.

    Args:
        send: of the server.
        timeout_s: the most the client may take to read, seconds.
        is_held_back: whether `send` would wait now. Where it would not there is no time to bound, and the timer, a
            tenth of what an empty request costs, is left out.

    Attributes:
        status: what was sent; 0 before.
        is_complete: the server has taken the last piece.
        is_client_gone: to be set when the connection is closed.
    """

    def __init__(self, send: Send, *, timeout_s: float, is_held_back: Callable[[], bool] = lambda: True) -> None:
        self.status = 0
        self.is_complete = False
        self.is_client_gone = asyncio.Event()
        self._send = send
        self._timeout_s = timeout_s
        self._is_held_back = is_held_back
        self._began_at: float | None = None

    async def send(self, message: Message) -> None:
        """Send one message of the app, a large one in pieces.

        Raises:
            AnswerTimeout: the answer began more than `timeout_s` ago and the client does not read.
            ClientDisconnect: it has gone.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._began_at = monotonic()
        try:
            is_small = len(message.get("body", b"")) <= PIECE_BYTES
            for piece in (message,) if is_small else _pieces(message):
                if self._is_held_back():
                    async with asyncio.timeout(self._left_s()):
                        await self._send_piece(piece)
                else:
                    await self._send_piece(piece)
        except TimeoutError as error:
            raise AnswerTimeout from error

    def _left_s(self) -> float | None:
        return None if self._began_at is None else self._began_at + self._timeout_s - monotonic()

    async def _send_piece(self, piece: Message) -> None:
        if self.is_client_gone.is_set():
            raise ClientDisconnect
        await self._send(piece)
        is_body = piece["type"] == "http.response.body"
        self.is_complete = is_body and not piece.get("more_body", False)
        if is_body and not self.is_complete:
            # A server that need not wait does not yield: others have a turn, and a client that has gone is noticed.
            # Behind the start it would make two packets of a small answer.
            await asyncio.sleep(0)


def answer_over(scope: Scope, send: Send, *, timeout_s: float) -> Answer:
    """The answer to the request of `scope`; on a server of another make each message has its timer."""
    connection = scope.get("extensions", {}).get(CONNECTION)
    if connection is None:
        return Answer(send, timeout_s=timeout_s)
    return Answer(send, timeout_s=timeout_s, is_held_back=connection["is_held_back"])


async def abort_connection(scope: Scope, receive: Receive) -> None:
    """Close the connection and drop what is unsent; returns when the server has noticed, so that it does not complain.

    A server that does not lend `abort` closes in its own way when the app returns: after the client has read.
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
            # A server that stops cancels what it has waited for, and the end of its loop whatever is still there.
            await _until_disconnect(receive, until)


async def _until_disconnect(receive: Receive, until: float) -> None:
    async with asyncio.timeout_at(until):
        while (await receive())["type"] != "http.disconnect":
            pass


def _pieces(message: Message) -> Iterator[Message]:
    """A message as messages of at most PIECE_BYTES that do not copy the body."""
    view = memoryview(message["body"])
    is_followed = message.get("more_body", False)
    for start in range(0, len(view), PIECE_BYTES):
        end = start + PIECE_BYTES
        yield {**message, "body": view[start:end], "more_body": is_followed or end < len(view)}
