"""`python -m service`: run the service until SIGTERM or SIGINT."""

import logging
import os
import re
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError

# Set before ONNX Runtime, NumPy and the Prometheus client are imported. NumPy's own threads would compete with the
# lanes for the same cores; a second series `…_created` beside every counter is nobody's metric.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "1")

import cv2

from service.app import create_app
from service.inference.runtime import ProviderUnavailable
from service.logs import configure_logging
from service.sam.manifest import ManifestError
from service.settings import Settings

logger = logging.getLogger("service")


def main() -> int:
    """Read the settings, load the model, listen. Exit status 2 when the settings cannot be served."""
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            name = "EDGESAM_" + "_".join(map(str, item["loc"])).upper() if item["loc"] else "settings"
            print(f"{name}: {item['msg']}", file=sys.stderr)  # noqa: T201 - before logging is configured
        return 2
    except SettingsError as error:  # a list that is not JSON; the message names the field and not the text
        found = re.search(r'field "(\w+)"', str(error))
        name = f"EDGESAM_{found[1]}".upper() if found else "settings"
        print(f'{name}: is not JSON; a list is written ["one", "two"]', file=sys.stderr)  # noqa: T201 - as above
        return 2
    configure_logging(settings.log_level)
    for name in Settings.unknown_variables():
        logger.warning("%s is no setting and is ignored", name)
    cv2.setNumThreads(1)  # each of our worker threads has a core already
    try:
        app = create_app(settings)
    except (ManifestError, ProviderUnavailable, ValueError) as error:
        logger.error("the service does not start: %s", error)
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.graceful_timeout_s,
    )
    server = DrainingServer(config, app, drain_s=settings.drain_s)
    server.run()
    return 0 if server.started else 1


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
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            logger.info("listening", extra={"url": url, "docs": f"{url}/docs"})

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


if __name__ == "__main__":
    sys.exit(main())
