"""The fast path answers exactly as the framework does, and passes all other requests to it."""

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from service.api.middleware.fast_path import FastPathMiddleware
from service.api.middleware.request import RequestMiddleware
from service.api.problems import install_problem_handlers
from service.errors import MaskNotFound, Overloaded
from service.telemetry.metrics import Metrics

ERRORS = {b"missing": MaskNotFound("Unknown."), b"busy": Overloaded("Full.", retry_after_s=3.0)}


def app_of(*, is_direct):
    """Return an app with POST and GET on one route, its metrics, and the requests that reach the framework."""
    registry, seen = CollectorRegistry(), []
    metrics, app = Metrics(registry), FastAPI(redirect_slashes=False)

    @app.post("/work")
    async def work(request: Request) -> Response:
        body = await request.body()
        if body in ERRORS:
            raise ERRORS[body]
        if body == b"broken":
            raise ZeroDivisionError
        return Response(b"done " + body, headers={"X-Mask-Id": "1"})

    @app.get("/work")
    async def look() -> str:
        return "looked"

    class Framework:
        def __init__(self, inner):
            self.inner = inner

        async def __call__(self, scope, receive, send):
            seen.append((scope["method"], scope["path"]))
            await self.inner(scope, receive, send)

    app.add_middleware(Framework)
    if is_direct:
        app.add_middleware(FastPathMiddleware, endpoints={"/work": work}, metrics=metrics)
    app.add_middleware(RequestMiddleware, metrics=metrics, routes=app.router.routes, policies={})
    install_problem_handlers(app, metrics)
    return app, registry, seen


async def asked(app, method, path, body=b""):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.request(method, path, content=body, headers={"X-Request-ID": "one"})


@pytest.mark.parametrize("body", [b"", b"image", b"missing", b"busy", b"broken"])
async def test_the_fast_path_gives_the_same_answer_as_the_framework(body):
    answers, refused = [], []
    for is_direct in (False, True):
        app, registry, seen = app_of(is_direct=is_direct)
        answers.append(await asked(app, "POST", "/work", body))
        refused.append(registry.get_sample_value("edgesam_rejected_total", {"reason": "overloaded"}))
        assert bool(seen) is not is_direct

    usual, direct = answers
    assert direct.status_code == usual.status_code
    assert direct.content == usual.content
    timeless = [{k: v for k, v in answer.headers.items() if k != "server-timing"} for answer in answers]
    assert timeless[0] == timeless[1]
    assert refused[0] == refused[1]


@pytest.mark.parametrize(("method", "path"), [("GET", "/work"), ("DELETE", "/work"), ("POST", "/works"), ("POST", "/")])
async def test_other_requests_are_passed_to_the_framework(method, path):
    app, _, seen = app_of(is_direct=True)

    answer = await asked(app, method, path)

    assert seen == [(method, path)]
    assert answer.status_code == (200 if method == "GET" else 405 if path == "/work" else 404)
