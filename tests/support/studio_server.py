"""A server with the data paths and the two kinds of tokens of Label Studio 1.23, for tests of fetching."""

import base64
from collections.abc import Callable
from typing import Final, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from support.app_server import AppServer

LEGACY_TOKEN: Final = "0123456789abcdef0123456789abcdef01234567"
PERSONAL_TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"


class StudioServer:
    """The server; a context manager.

    Args:
        prefix: Prefix of all paths.

    Attributes:
        uploads: Contents of /data/upload/… by path, such as `3/a.png`.
        local_files: Contents of /data/local-files/?d=… by path.
        objects: Contents of objects in cloud storage by address, or the address that the server redirects to.
        logins: Number of personal access tokens that were exchanged.
        reads: Paths that were asked for with a valid token.
        headers: Headers of the last request for an image.
    """

    def __init__(self, prefix: str = "") -> None:
        self.uploads: dict[str, bytes] = {}
        self.local_files: dict[str, bytes] = {}
        self.objects: dict[str, bytes | str] = {}
        self.logins = 0
        self.reads: list[str] = []
        self.headers: dict[str, str] = {}
        self._access = ""
        routes: dict[str, Callable[[Request], Response]] = {
            "/data/upload/{path:path}": lambda request: self._file(self.uploads, request.path_params["path"]),
            "/data/local-files/": lambda request: self._file(self.local_files, request.query_params["d"]),
            "/storage-data/uploaded/": lambda request: self._file(
                self.uploads, request.query_params["filepath"].removeprefix("upload/")
            ),
            "/tasks/{task:int}/resolve/": self._object,
        }
        found = [Route(f"{prefix}{path}", self._allowed(answer)) for path, answer in routes.items()]
        found.append(Route(f"{prefix}/api/token/refresh/", self._log_in, methods=["POST"]))
        self._app = AppServer(Starlette(routes=found))
        self._prefix = prefix
        self.url = ""

    def __enter__(self) -> Self:
        self._app.__enter__()
        self.url = self._app.url + self._prefix
        return self

    def __exit__(self, *_: object) -> None:
        self._app.__exit__()

    def expire(self) -> None:
        """Let the access token expire."""
        self._access = ""

    def _allowed(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def checked(request: Request) -> Response:
            self.headers = dict(request.headers)
            given = request.headers.get("authorization", "")
            if given != f"Token {LEGACY_TOKEN}" and (not self._access or given != f"Bearer {self._access}"):
                return JSONResponse({"detail": "Authentication credentials were not provided."}, 401)
            self.reads.append(request.url.path)
            return answer(request)

        return checked

    async def _log_in(self, request: Request) -> Response:
        if await request.json() != {"refresh": PERSONAL_TOKEN}:
            return JSONResponse({"detail": "Token is invalid"}, 401)
        self.logins += 1
        self._access = f"access-{self.logins}"
        return JSONResponse({"access": self._access})

    def _file(self, files: dict[str, bytes], path: str) -> Response:
        return Response(files[path], media_type="image/png") if path in files else Response(status_code=404)

    def _object(self, request: Request) -> Response:
        name = base64.urlsafe_b64decode(request.query_params["fileuri"]).decode()
        found = self.objects.get(name)
        if found is None:
            return Response(status_code=404)
        return RedirectResponse(found, 303) if isinstance(found, str) else Response(found, media_type="image/png")
