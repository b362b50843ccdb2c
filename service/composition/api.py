"""The FastAPI application with its routes and middleware, made from the settings."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from prometheus_client import start_http_server
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api.access.key_file import KeyFile
from service.api.access.keys import ApiKeys
from service.api.access.policy import policies_of
from service.api.access.rate_limit import RateLimiters
from service.api.adapters import install_adapters
from service.api.adapters.exchange import Exchange
from service.api.adapters.label_studio_download import StudioDownloads, read_token_from
from service.api.bodies import RequestLimits
from service.api.head_routes import add_head_routes
from service.api.middleware.admission import permits_of
from service.api.middleware.stack import AccessControl, add_middleware
from service.api.openapi import DESCRIPTION, install_document
from service.api.problems import install_problem_handlers
from service.api.routes.docs import install_docs_routes
from service.api.routes.embed import install_embed_routes
from service.api.routes.everything import install_everything_route
from service.api.routes.health import Readiness, install_health_routes, install_metrics_route
from service.api.routes.models import (
    Replica,
    announce_models,
    announce_ready,
    install_model_routes,
    install_reload_route,
)
from service.api.routes.playground import install_playground
from service.api.routes.segment import SEGMENT_ROUTE, install_segment_route
from service.composition.cache import Cache
from service.composition.everything import adapter_proposals, everything_answers
from service.composition.inference import CLOSE_TIMEOUT_S, Inference
from service.composition.reload import ModelReload
from service.inference.deletion_subscriber import DeletionSubscriber
from service.inference.image_deletion import ImageDeletion
from service.inference.served_models import ServedModels
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


def build_api(
    settings: Settings,
    models: ServedModels,
    inference: Inference,
    cache: Cache,
    *,
    keys: ApiKeys | None,
    key_file: KeyFile | None,
    metrics: Metrics,
    closing: AsyncExitStack,
) -> FastAPI:
    """Return the application: routes, middleware, and the tasks that run from its start to its end.

    Args:
        settings: Settings of the service.
        models: Models and the use cases over them.
        inference: Queues and threads of all models.
        cache: Caches in memory and in Redis.
        keys: Known API keys; None where none are required.
        key_file: File of API keys, read for the first time; None without one.
        metrics: Metrics of the process.
        closing: Stack that is closed when the application ends.

    Raises:
        ValueError: A file of the browser runtime is missing, OpenTelemetry is missing, or a route has no policy.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with closing:
            _serve_metrics(settings, metrics, closing)
            if key_file is not None:
                closing.callback(key_file.close)
                key_file.start()
            if cache.disk is not None:
                cache.disk.start()
            _subscribe_to_deletions(settings, models, cache, closing)
            inference.encode_batcher.start()
            inference.decode_batcher.start()
            inference.everything_batcher.start()
            for model in models.all:
                await asyncio.to_thread(model.warm_up)
            announce_models(models, metrics, models.all)
            announce_ready(models, settings.role)
            yield

    app = FastAPI(
        title="EdgeSAM",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # RequestMiddleware makes the spans and metrics. The framework would look for its own with each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.readiness, app.state.models = Readiness(), models
    answer_segment = _install_routes(app, settings, models, inference, cache, metrics, closing)
    install_document(app, needs_key=keys is not None)

    rate_limiters = RateLimiters(cache.redis.buckets)
    closing.push_async_callback(rate_limiters.aclose)
    policies = policies_of(app.router.routes)
    add_middleware(
        app,
        policies=policies,
        permits=permits_of(
            policies,
            role=settings.role,
            max_embed_requests=settings.max_embed_requests,
            max_segment_requests=settings.max_segment_requests,
            check_decode_queue=inference.decode_batcher.check_admission,
            everything=inference.everything_permits,
        ),
        access=None if keys is None else AccessControl(keys, rate_limiters),
        fast_path={SEGMENT_ROUTE: answer_segment},
        send_timeout_s=settings.send_timeout_s,
        tracing=_tracing(settings, closing),
        origins=settings.cors_origins,
        metrics=metrics,
    )
    return app


def _install_routes(
    app: FastAPI,
    settings: Settings,
    models: ServedModels,
    inference: Inference,
    cache: Cache,
    metrics: Metrics,
    closing: AsyncExitStack,
) -> Callable[[Request], Awaitable[Response]]:
    """Add all routes and the handlers of errors; return the function that answers /segment."""
    executor, limits = inference.prompt_executor, _request_limits(settings)
    deletion = ImageDeletion(
        models,
        recent_deletions=cache.recent_deletions,
        deletions=cache.redis.deletions,
        registry=cache.redis.registry,
        dtype=settings.embedding_dtype,
        keeps_images=cache.redis.kept is not None,
        records=cache.redis.records,
        disk=None if cache.disk is None else cache.disk.tier,
    )
    install_embed_routes(app, models, deletion, executor=executor, limits=limits, expires_in_s=settings.cache_ttl_s)
    answer_segment = install_segment_route(app, models, executor=executor, limits=limits)
    answers = everything_answers(settings, inference, cache, metrics)
    install_everything_route(
        app,
        models,
        answers,
        executor=inference.everything_executor,
        limits=limits,
        metrics=metrics,
    )
    install_model_routes(app, models, _replica(settings), offers_files=settings.browser_runtime_dir is not None)
    reload = ModelReload(
        settings, models, cache, inference, on_replaced=lambda loaded: announce_models(models, metrics, loaded)
    )
    closing.push_async_callback(reload.aclose)
    install_reload_route(app, reload.reload, limits)
    exchange = Exchange(
        models,
        executor,
        limits,
        settings.label_studio_files,
        _downloads(settings, closing),
        adapter_proposals(settings, inference, answers),
    )
    install_adapters(app, settings.adapters, exchange)
    readiness: Readiness = app.state.readiness
    install_health_routes(app, readiness, models=models, redis=cache.redis.describe)
    if settings.metrics_port is None and settings.metrics_access != "off":
        install_metrics_route(app, metrics.registry, access=settings.metrics_access)
    install_playground(app, settings.browser_runtime_dir)
    if settings.docs_access != "off":
        install_docs_routes(app, access=settings.docs_access or "admin")
    add_head_routes(app)
    install_problem_handlers(app, metrics)
    return answer_segment


def _replica(settings: Settings) -> Replica:
    return Replica(
        role=settings.role,
        embedding_dtype=settings.embedding_dtype,
        keep_images_s=settings.keep_images_s,
        limits={
            "max_image_bytes": settings.max_image_bytes,
            "max_image_pixels": settings.max_image_pixels,
            "max_prompts": settings.max_prompts,
            "max_points_per_side": settings.max_points_per_side,
        },
    )


def _request_limits(settings: Settings) -> RequestLimits:
    return RequestLimits(
        max_image_bytes=settings.max_image_bytes,
        max_request_bytes=settings.max_request_bytes,
        max_prompts=settings.max_prompts,
        body_timeout_s=settings.body_timeout_s,
        min_bytes_per_s=settings.min_upload_bytes_per_s,
        embed_timeout_s=settings.embed_timeout_s,
        segment_timeout_s=settings.segment_timeout_s,
        everything_timeout_s=settings.everything_timeout_s,
        max_points_per_side=settings.max_points_per_side,
    )


def _downloads(settings: Settings, closing: AsyncExitStack) -> StudioDownloads | None:
    """Return access to the images of a Label Studio server, where one is set."""
    if settings.label_studio_url is None:
        return None
    token = settings.label_studio_token
    if token is not None:
        read_token = token.get_secret_value
    else:
        assert settings.label_studio_token_file is not None
        read_token = read_token_from(settings.label_studio_token_file)
    downloads = StudioDownloads(
        settings.label_studio_url,
        read_token,
        max_bytes=settings.max_image_bytes,
        timeout_s=settings.body_timeout_s,
    )
    closing.push_async_callback(asyncio.to_thread, downloads.close)
    return downloads


def _serve_metrics(settings: Settings, metrics: Metrics, closing: AsyncExitStack) -> None:
    """Serve /metrics on a port of its own, where one is set."""
    if settings.metrics_port is None:
        return
    server, thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
    closing.callback(thread.join, CLOSE_TIMEOUT_S)
    closing.callback(server.shutdown)
    logger.info("metrics", extra={"port": server.server_port})


def _subscribe_to_deletions(settings: Settings, models: ServedModels, cache: Cache, closing: AsyncExitStack) -> None:
    """Receive the deletions of other replicas, where Redis is set."""
    if cache.redis.deletions is None:
        return
    subscriber = DeletionSubscriber(
        cache.redis.deletions,
        served=models.states_by_fingerprint,
        recent_deletions=cache.recent_deletions,
        dtype=settings.embedding_dtype,
        disk=None if cache.disk is None else cache.disk.tier,
        missed=None if cache.disk is None else cache.disk.missed,
    )
    closing.push_async_callback(subscriber.aclose)
    subscriber.start()


def _tracing(settings: Settings, closing: AsyncExitStack) -> Tracing | None:
    """Return the exporter of traces; None unless an endpoint is set."""
    if settings.otlp_endpoint is None:
        return None
    tracing = Tracing(settings.otlp_endpoint, version=__version__)
    closing.push_async_callback(asyncio.to_thread, tracing.close, CLOSE_TIMEOUT_S)
    return tracing
