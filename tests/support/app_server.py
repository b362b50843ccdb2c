"""A small ASGI app behind a real uvicorn in a thread, for tests of connections."""

import asyncio
import threading
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from support.redis_server import wait_until


class AppServer:
    """An ASGI app on a free port; a context manager.

    Args:
        app: ASGI app without lifespan events.
        options: Options of uvicorn.Config, such as http and loop.
    """

    def __init__(self, app: Starlette, **options: Any) -> None:
        config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, timeout_s=60, what="uvicorn does not start")
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(60)

    def stop(self) -> None:
        """Begin a shutdown as SIGTERM does, without waiting for it."""
        self._server.should_exit = True

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._server.serve())
