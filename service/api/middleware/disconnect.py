"""Client disconnects: the work on a request is cancelled when the client closes the connection."""

import asyncio
import traceback
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.sending import Answer


async def run_until_disconnect(app: ASGIApp, scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    """Run the application, and cancel it when the client closes the connection.

    Args:
        app: Application that answers the request.
        scope: ASGI scope of the request.
        receive: ASGI `receive` of the server.
        send: ASGI `send` that the application gets.
        answer: Answer to the request; it is marked when the client disconnects.

    Raises:
        ClientDisconnect: The client disconnected before its answer was complete.
    """
    work = asyncio.current_task()
    assert work is not None
    watcher = _DisconnectWatcher(receive, answer, work)
    try:
        await app(scope, watcher.receive, send)
    except asyncio.CancelledError as error:
        if watcher.has_cancelled and work.cancelling() == 1:
            raise ClientDisconnect from error
        raise  # the server shuts down
    finally:
        watcher.stop()


def release_answer(error: BaseException | None) -> None:
    """Clear the frames that an exception and the exceptions before it came through.

    Frames and exceptions refer to each other in circles, and the answer is referred to from there. Many megabytes would
    stay in memory until the garbage collector runs.

    Args:
        error: Exception that ended the request.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class _DisconnectWatcher:
    """Waits for the end of the connection after the application has read the body.

    Args:
        receive: ASGI `receive` of the server.
        answer: Answer to the request; it is marked when the client disconnects.
        work: Task that runs the application; it is cancelled when the client disconnects. A task of its own for each
            request would cost more than this watcher.
    """

    def __init__(self, receive: Receive, answer: Answer, work: asyncio.Task[Any]) -> None:
        self.has_cancelled = False
        self._receive = receive
        self._answer = answer
        self._work = work
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next message; the application calls this in place of the server's `receive`."""
        if self._watch is not None:
            await self._answer.is_disconnected.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._answer.is_disconnected.set()
        elif not message.get("more_body", False):
            self._watch = asyncio.create_task(self._wait())
        return message

    def stop(self) -> None:
        """Stop watching, because the application has ended."""
        if self._watch is not None:
            self._watch.cancel()
        if self.has_cancelled:
            self._work.uncancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._answer.is_disconnected.set()
        # The server also reports a disconnect after every complete answer. The rest of the work is short then.
        if not self._answer.is_complete:
            self.has_cancelled = True
            self._work.cancel()
