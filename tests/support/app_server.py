"""A small ASGI app behind a real uvicorn, in a thread of the test: for what middleware does to connections."""

import asyncio
import threading
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from support.redis_server import wait_until


class AppServer:
    """Serves `app` on a free port; `connections` are those that are open.

    Args:
        app: without lifespan.
        options: of uvicorn.Config: http, loop, …
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
        """What SIGTERM does, without waiting."""
        self._server.should_exit = True

    @property
    def connections(self) -> int:
        """How many the server holds."""
        return len(self._server.server_state.connections)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._server.serve())
