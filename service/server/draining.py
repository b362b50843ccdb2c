"""uvicorn with a phase of draining before its stop."""

import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.server.listening import check_listening, listen_error

logger = logging.getLogger("service")


class DrainingServer(uvicorn.Server):
    """Answers requests for `drain_s` seconds after the first SIGTERM, with /readyz at 503, then stops as uvicorn does.

    A load balancer notices the 503 only with its next probe. Without this phase it would send requests to a closed port
    until then. A second signal ends the phase. A further SIGINT stops without waiting for requests in progress.

    Args:
        config: Configuration of uvicorn.
        app: Application; its `app.state.readiness` is the state that /readyz reports.
        drain_s: Length of the phase, in seconds. 0 skips it.
        on_listening: Function called once the server listens.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, *, drain_s: float, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen.

        Raises:
            ListenError: Another process listens on the port, which both had bound before.
        """
        try:
            await super().startup(sockets)
            check_listening(sockets or [])
        except OSError as error:
            await self.lifespan.shutdown()
            raise listen_error(error, self.config.host, self.config.port) from error
        # Frozen objects are not looked at again: a collection takes microseconds instead of 100 ms.
        gc.collect()
        gc.freeze()
        self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the form of a signal handler
        """Handle SIGTERM and SIGINT; uvicorn calls it in the main thread.

        The method of uvicorn also raises the signal again after the stop. Supervisors would then read exit status 143,
        a failure, after a clean stop.
        """
        readiness = self._app.state.readiness
        is_first, readiness.is_draining = not readiness.is_draining, True
        name = signal.Signals(sig).name
        if is_first and sig == signal.SIGTERM and self._drain_s > 0:
            logger.info("draining", extra={"signal": name, "drain_s": self._drain_s})
            self._close_idle_connections()
            timer = threading.Timer(self._drain_s, self._stop)
            timer.daemon = True
            timer.start()
            return
        logger.info("stopping", extra={"signal": name})
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self._stop()

    def _close_idle_connections(self) -> None:
        """Close each connection with its next answer.

        /readyz only keeps new connections away. A client that keeps its connection would send the request that crosses
        the close.
        """
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)  # uvicorn renews its headers from these every second
        self.server_state.default_headers = [*self.server_state.default_headers, close]

    def _stop(self) -> None:
        self.should_exit = True
