"""The routes for orchestrators and monitoring: /livez, /readyz, /healthz and /metrics."""

from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADMIN_ONLY, OPEN, with_policy
from service.api.schemas import ProblemModel
from service.errors import NotReady
from service.inference.served_models import ServedModels


class LiveModel(BaseModel):
    """The process answers requests."""

    status: str = "live"


class ReadyModel(BaseModel):
    """The process takes work. The state of Redis is reported only: the service also answers without it."""

    status: str = "ready"
    model: str = Field(description="Name of the model that answers requests without a model.")
    trained: bool = Field(description="Whether that model is trained.")
    models: list[str] = Field(description="Names of all served models. All are loaded and warm.")
    redis: str = Field(description="off, ok, or resting while it is left alone after failures.")


class Readiness:
    """State behind /readyz. The port opens when all models are warm, so only draining makes the process not ready."""

    def __init__(self) -> None:
        self.is_draining = False


def install_health_routes(
    app: FastAPI, readiness: Readiness, *, models: ServedModels, redis: Callable[[], str]
) -> None:
    """Add `/livez`, its old name `/healthz`, and `/readyz`.

    Args:
        app: Application that gets the routes.
        readiness: State that /readyz reports.
        models: Served models.
        redis: Function that returns the state of Redis: off, ok or resting.
    """

    @app.get("/livez", operation_id="livez", summary="Does the process answer?")
    @app.get("/healthz", operation_id="healthz", summary="The same as /livez")
    @with_policy(OPEN)
    async def livez() -> LiveModel:
        return LiveModel()

    @app.get(
        "/readyz", responses=ProblemModel.responses(503), operation_id="readyz", summary="Does the process take work?"
    )
    @with_policy(OPEN)
    async def readyz() -> ReadyModel:
        if readiness.is_draining:
            raise NotReady("The process is stopping. It finishes the requests that it has.", retry_after_s=1.0)
        default = models.default
        return ReadyModel(
            model=default.name,
            trained=default.manifest.trained,
            models=[model.name for model in models.all],
            redis=redis(),
        )


def install_metrics_route(app: FastAPI, registry: CollectorRegistry, *, access: Literal["open", "admin"]) -> None:
    """Add `/metrics`, in the format that the scraper asks for.

    Args:
        app: Application that gets the route.
        registry: Registry of the metrics.
        access: Access to the metrics: open to all, or only for keys with the role admin.
    """

    @app.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
    @with_policy(OPEN if access == "open" else ADMIN_ONLY)
    def metrics(request: Request) -> Response:  # a plain function: FastAPI renders it in a thread
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})
