"""Answers in lines that are sent as they are made: errors after the start, disconnects and the stop of the process."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Final

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.middleware.sending import AnswerTimeout
from service.api.problems import refuse, unexpected_problem
from service.errors import NotReady, ServiceError
from service.telemetry.metrics import Metrics

# Time to send the last line when the process stops. A client that does not read does not hold the stop up.
_LAST_LINE_TIMEOUT_S: Final = 1.0


class EventStream(Response):
    """An answer of lines whose status is sent with the first one. It sends the next line when the client took the last.

    An error after the start becomes a last line with its problem document. The metrics and the access log get the
    status of the problem. A client that disconnects, or does not read, closes the lines.

    Args:
        lines: Lines, with their newlines. They are closed at the end.
        error_line: Function that makes the last line of the JSON of a problem document.
        media_type: Media type of the answer.
        metrics: Metrics of the process; refusals are counted there.
    """

    def __init__(
        self,
        lines: AsyncGenerator[bytes],
        *,
        error_line: Callable[[bytes], bytes],
        media_type: str,
        metrics: Metrics,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        # nginx would gather the lines otherwise.
        self.init_headers({"Vary": "Accept", "X-Accel-Buffering": "no"})
        self._lines = lines
        self._error_line = error_line
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send all lines."""
        async with aclosing(self._lines):
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for line in self._lines:
                    await _send_body(send, line)
                last = b""
            except (ClientDisconnect, AnswerTimeout):
                raise
            except asyncio.CancelledError:
                await self._end_at_stop(scope, send)
                return
            except ServiceError as error:
                last = self._failed(refuse(scope, error, self._metrics))
            except Exception as error:  # noqa: BLE001 - the status has been sent, so the last line reports the failure
                last = self._failed(unexpected_problem(scope, error))
        await _send_body(send, last, is_last=True)

    async def _end_at_stop(self, scope: Scope, send: Send) -> None:
        """Send a last line where the process stops. Where the client has disconnected, this raises ClientDisconnect."""
        await _send_body(send, b"")
        error = NotReady("The process is stopping and cannot finish this request. Send it again.", retry_after_s=1.0)
        last = self._failed(refuse(scope, error, self._metrics))
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LINE_TIMEOUT_S):
                await _send_body(send, last, is_last=True)

    def _failed(self, problem: Response) -> bytes:
        return self._error_line(bytes(problem.body))


async def _send_body(send: Send, body: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
