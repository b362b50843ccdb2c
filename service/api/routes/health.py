"""Whether the process lives, whether it takes work, and its metrics."""

from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.schemas import ProblemModel
from service.errors import NotReady


class LiveModel(BaseModel):
    """The process answers."""

    status: str = "live"


class ReadyModel(BaseModel):
    """The process takes work. Redis is reported and does not count: without it the service still answers."""

    status: str = "ready"
    model: str
    trained: bool
    redis: str = Field(description="off, ok, or resting while it is left alone after failures.")


class Readiness:
    """What /readyz answers. The port opens when the model is warm, so only draining can make it say no."""

    def __init__(self) -> None:
        self.is_draining = False


def install_health_routes(
    app: FastAPI, readiness: Readiness, *, model: str, trained: bool, redis: Callable[[], str]
) -> None:
    """Add `/livez`, its old name `/healthz`, and `/readyz`."""

    @app.get("/livez", operation_id="livez", summary="Does the process answer?")
    @app.get("/healthz", operation_id="healthz", summary="The same as /livez")
    async def livez() -> LiveModel:
        return LiveModel()

    @app.get(
        "/readyz", responses=ProblemModel.responses(503), operation_id="readyz", summary="Does the process take work?"
    )
    async def readyz() -> ReadyModel:
        if readiness.is_draining:
            raise NotReady("The process is stopping; it finishes what it has.", retry_after_s=1.0)
        return ReadyModel(model=model, trained=trained, redis=redis())


def install_metrics_route(app: FastAPI, registry: CollectorRegistry) -> None:
    """Add `/metrics`, in the format the scraper asks for."""

    @app.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
    def metrics(request: Request) -> Response:  # a plain function: FastAPI renders it in a thread
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})
