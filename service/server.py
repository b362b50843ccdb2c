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
    port until then. A second signal stops at once.
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT, in the main thread."""
        readiness = self._app.state.readiness
        if sig != signal.SIGTERM or self._drain_s == 0 or readiness.is_draining:
            readiness.is_draining = True
            super().handle_exit(sig, frame)
            return
        readiness.is_draining = True
        logger.info("draining", extra={"drain_s": self._drain_s})
        timer = threading.Timer(self._drain_s, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()
