"""A proxy on this machine that removes headers from the answers of a service, as some proxies in front of it do."""

import threading
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx

_TIMEOUT_S = 60.0
_OWN_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding"})


class HeaderProxy:
    """The proxy; a context manager.

    Args:
        target: Address of the service.
        removed: Headers that the proxy removes from an answer, in lower case, by the path of the request.
    """

    def __init__(self, target: str, removed: Callable[[str], Collection[str]]) -> None:
        client = httpx.Client(base_url=target, timeout=_TIMEOUT_S, trust_env=False)

        class Handler(_Handler):
            pass

        Handler.client, Handler.removed = client, staticmethod(removed)
        self._client = client
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """Address of the proxy, with a slash at the end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._client.close()


class _Handler(BaseHTTPRequestHandler):
    client: httpx.Client
    removed: Callable[[str], Collection[str]]

    def log_message(self, *args: object) -> None:
        """Write no log."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        with self.client.stream(self.command, self.path, content=body, headers=headers) as answer:
            content = b"".join(answer.iter_raw())
        removed = self.removed(self.path)
        self.send_response(answer.status_code)
        for name, value in answer.headers.multi_items():
            if name.lower() not in removed and name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - names of the base class
