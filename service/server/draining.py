"""uvicorn with what it leaves out: a phase of draining."""

import gc
import logging
import signal
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

logger = logging.getLogger("service")


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM: /readyz turns 503, and for `drain_s` requests are still taken; then uvicorn's own stop.

    A load balancer notices the 503 only after its next probe; without this phase it would send requests to a closed
    port until then. A second signal ends this phase, one more SIGINT waits for nothing that is under way.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        # What is here now stays: without looking at it a collection takes microseconds instead of a tenth of a second.
        gc.collect()
        gc.freeze()
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            logger.info("listening", extra={"url": url, "playground": f"{url}/", "docs": f"{url}/docs"})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the form of a signal's handler
        """Called by uvicorn for SIGTERM and SIGINT, in the main thread.

        The parent's notes the signal as well, and raises it again when everything has been closed: supervisors would
        read a failure, 143, where the stop was clean.
        """
        readiness = self._app.state.readiness
        is_first, readiness.is_draining = not readiness.is_draining, True
        if is_first and sig == signal.SIGTERM and self._drain_s > 0:
            logger.info("draining", extra={"drain_s": self._drain_s})
            self._ask_to_hang_up()
            timer = threading.Timer(self._drain_s, self._end)
            timer.daemon = True
            timer.start()
            return
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self._end()

    def _ask_to_hang_up(self) -> None:
        """Close each connection with its next answer: readiness turns away new ones only, and who keeps his would send
        the request that crosses the end.
        """
        hang_up = (b"connection", b"close")
        self.config.encoded_headers.append(hang_up)  # uvicorn renews its headers from these every second
        self.server_state.default_headers = [*self.server_state.default_headers, hang_up]

    def _end(self) -> None:
        self.should_exit = True
