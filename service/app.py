"""The composition root: settings in, a FastAPI application out. The only place that knows every part."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server

from service import __version__, native
from service.api.access.keys import KeyFile, KeyRing
from service.api.access.policy import DOCS_PATHS, METRICS_PATHS
from service.api.adapters import install_adapters
from service.api.adapters.exchange import Exchange
from service.api.middleware.access import RateLimiters
from service.api.middleware.stack import Access, add_middleware, permits_of
from service.api.openapi import DESCRIPTION, install_document
from service.api.problems import install_problem_handlers
from service.api.routes.docs import DOCUMENT_PATH, install_docs_page
from service.api.routes.embedding_download import install_embedding_download
from service.api.routes.health import Readiness, install_health_routes, install_metrics_route
from service.api.routes.model_files import ModelFile, install_model_files, read_model_files
from service.api.routes.playground import install_pages
from service.api.routes.requests import RequestLimits, install_routes
from service.api.routes.served_model import announce, describe_model
from service.api.schemas import ModelModel
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.tier import RedisClient, connect
from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.deletion_subscriber import DeletionSubscriber
from service.inference.embed import Embedder
from service.inference.image_states import ImageStates
from service.inference.model_batchers import decode_batcher, encode_batcher
from service.inference.refinement_masks import LowResMask, RefinementMasks
from service.inference.replicas import RedisBackend
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segment import Segmenter
from service.inference.segmentation_builder import MaskFunction
from service.process import available_cpus
from service.sam.embedding import image_of_mask
from service.sam.mask_runs import MaskLibrary
from service.sam.masks import binary_mask
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

# A task behind an answer holds an embedding of 2 to 4 MiB, or the masks of a request, 128 KiB each.
MAX_BACKGROUND_TASKS = 32
CLOSE_TIMEOUT_S = 2.0


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, to be run by an ASGI server.

    `app.state.readiness` tells what /readyz answers, `app.state.model` describes the model.

    The model is loaded here and not in the lifespan: with a damaged artifact there is no app at all.

    Raises:
        ManifestError, ProviderUnavailable, ValueError: the settings cannot be served; the message says why.
    """
    settings = settings or Settings()
    threads = settings.threads or available_cpus()
    metrics = Metrics(CollectorRegistry())
    keys, key_file = _keys(settings, metrics)
    runtime = Runtime(
        settings.model_dir,
        provider=settings.provider,
        threads=threads,
        decoder=settings.decoder,
        precision=settings.precision,
        max_encode_batch=settings.max_encode_batch,
        engine_cache_dir=settings.engine_cache_dir,
        encodes=settings.role != "segment",
        segments=settings.role != "embed",
    )
    closing = AsyncExitStack()  # what is pushed here is closed in reverse order
    upload_executor = TimedExecutor("upload", max(1, threads // 2), low_priority=True)
    prompt_executor = TimedExecutor("prompt", threads + 1)
    closing.callback(upload_executor.close)
    closing.callback(prompt_executor.close)
    encoding = encode_batcher(
        runtime,
        dtype=settings.embedding_dtype,
        max_batch_size=settings.max_encode_batch,
        max_queue_size=settings.max_encode_queue,
        metrics=metrics,
    )
    is_native = runtime.decoder.startswith("native")
    # The native decoder takes prompts one by one: a batch would only keep its first prompt waiting for its last.
    max_decode_batch = 1 if is_native else settings.max_decode_batch
    decoding = decode_batcher(
        runtime,
        max_batch_size=max_decode_batch,
        max_queue_size=settings.max_decode_queue,
        calls=settings.decode_workers or (runtime.threads if is_native else 1),
        threads=runtime.threads,
        finishers=threads + 1,
        metrics=metrics,
    )
    shared = _shared(settings, runtime.fingerprint, prompt_executor, metrics, closing)
    rate_limiters = RateLimiters(shared.buckets)
    closing.push_async_callback(rate_limiters.aclose)
    background = BackgroundWork(MAX_BACKGROUND_TASKS, metrics)
    closing.push_async_callback(background.aclose, CLOSE_TIMEOUT_S)
    closing.push_async_callback(decoding.aclose)
    closing.push_async_callback(encoding.aclose)
    memory: MemoryCache[ImageState] = MemoryCache(settings.memory_cache_bytes, settings.cache_ttl_s, metrics)
    mask_memory: MemoryCache[LowResMask] = MemoryCache(
        settings.mask_memory_bytes, settings.mask_ttl_s, metrics, "mask_memory", group=image_of_mask
    )
    # Whoever waits for a picture's embedding has a deadline; who joins others' waiting may have a later one.
    recent_deletions = RecentDeletions(2.0 * max(settings.embed_timeout_s, settings.segment_timeout_s))
    states = ImageStates(
        memory,
        shared.embeddings,
        deletions=shared.deletions,
        recent_deletions=recent_deletions,
        runtime=runtime,
        executor=prompt_executor,
        background=background,
        renew_every_s=settings.cache_ttl_s / 10,
    )
    embedder = Embedder(
        runtime=runtime,
        batcher=encoding,
        states=states,
        shared_flight=shared.flight,
        recent_deletions=recent_deletions,
        executor=upload_executor,
        dtype=settings.embedding_dtype,
        max_pixels=settings.max_image_pixels,
    )
    segmenter = Segmenter(
        runtime=runtime,
        batcher=decoding,
        states=states,
        masks=RefinementMasks(mask_memory, shared.masks, background, recent_deletions),
        executor=prompt_executor,
        dtype=settings.embedding_dtype,
        max_decode_batch=max_decode_batch,
        mask_function=_mask_function(settings),
    )
    model_files = {} if settings.browser_runtime_dir is None else read_model_files(settings.model_dir, runtime.manifest)
    model = describe_model(
        runtime,
        role=settings.role,
        embedding_dtype=settings.embedding_dtype,
        files=model_files,
        limits={
            "max_image_bytes": settings.max_image_bytes,
            "max_image_pixels": settings.max_image_pixels,
            "max_prompts": settings.max_prompts,
        },
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with closing:
            _serve_metrics(settings, metrics, closing)
            if key_file is not None:
                closing.callback(key_file.close)
                key_file.start()
            if shared.deletions is not None:
                listener = DeletionSubscriber(
                    shared.deletions,
                    states=states,
                    recent_deletions=recent_deletions,
                    fingerprint=runtime.fingerprint,
                    dtype=settings.embedding_dtype,
                )
                closing.push_async_callback(listener.aclose)
                listener.start()
            encoding.start()
            decoding.start()
            await asyncio.to_thread(runtime.warm_up)
            announce(model, metrics)
            yield

    app = FastAPI(
        title="EdgeSAM",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # Spans and metrics are RequestMiddleware's; the framework would look for a use of its own with each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        openapi_url=None if settings.docs_access == "off" else DOCUMENT_PATH,
    )
    app.state.readiness, app.state.model = Readiness(), model
    adapter_routes = _install_routes(
        app,
        settings,
        embedder=embedder,
        segmenter=segmenter,
        executor=prompt_executor,
        model=model,
        model_files=model_files,
        redis=shared.describe,
        metrics=metrics,
    )
    install_document(app, needs_key=keys is not None)
    add_middleware(
        app,
        permits=permits_of(
            settings.role,
            max_embed_requests=settings.max_embed_requests,
            max_segment_requests=settings.max_segment_requests,
            check_clicks=decoding.check_admission,
            adapter_routes=adapter_routes,
        ),
        access=None if keys is None else Access(keys, rate_limiters, _open_paths(settings)),
        send_timeout_s=settings.send_timeout_s,
        tracing=_tracing(settings, closing),
        origins=settings.cors_origins,
        metrics=metrics,
    )
    return app


def _install_routes(
    app: FastAPI,
    settings: Settings,
    *,
    embedder: Embedder,
    segmenter: Segmenter,
    executor: TimedExecutor,
    model: ModelModel,
    model_files: Mapping[str, ModelFile],
    redis: Callable[[], str],
    metrics: Metrics,
) -> set[str]:
    """Routes, pages and problems; the routes of labelling tools are told."""
    limits = RequestLimits(
        max_image_bytes=settings.max_image_bytes,
        max_request_bytes=settings.max_request_bytes,
        max_prompts=settings.max_prompts,
        body_timeout_s=settings.body_timeout_s,
        min_bytes_per_s=settings.min_upload_bytes_per_s,
        embed_timeout_s=settings.embed_timeout_s,
        segment_timeout_s=settings.segment_timeout_s,
    )
    install_routes(
        app,
        embedder,
        segmenter,
        executor=executor,
        limits=limits,
        expires_in_s=settings.cache_ttl_s,
        description=model,
        metrics=metrics,
    )
    if model_files:
        install_model_files(app, model_files, metrics)
    install_embedding_download(
        app,
        embedder,
        executor=executor,
        timeout_s=settings.segment_timeout_s,
        fingerprint=model.fingerprint,
        metrics=metrics,
    )
    exchange = Exchange(embedder, segmenter, executor, limits, model.name, settings.label_studio_files)
    adapter_routes = install_adapters(app, settings.adapters, exchange)
    install_health_routes(app, app.state.readiness, model=model.name, trained=model.trained, redis=redis)
    if settings.metrics_port is None and settings.metrics_access != "off":
        install_metrics_route(app, metrics.registry)
    install_pages(app, settings.browser_runtime_dir)
    if settings.docs_access != "off":
        install_docs_page(app)
    install_problem_handlers(app, metrics)
    return adapter_routes


def _mask_function(settings: Settings) -> MaskFunction:
    """Return the C function that enlarges masks, or the one in NumPy where C is not built or not wanted."""
    library = None if settings.decoder == "onnx" else native.library()
    return binary_mask if library is None else partial(binary_mask, library=MaskLibrary(library))


def _keys(settings: Settings, metrics: Metrics) -> tuple[KeyRing | None, KeyFile | None]:
    """The keys that are known, and the file they are read from; None where none are asked for.

    Raises:
        KeyFileError: the file cannot be used.
    """
    if not settings.asks_for_keys:
        return None, None
    ring = KeyRing([key.get_secret_value() for key in settings.api_keys], metrics)
    if settings.api_keys_file is None:
        return ring, None
    file = KeyFile(settings.api_keys_file, ring, metrics)
    file.load()
    return ring, file


def _serve_metrics(settings: Settings, metrics: Metrics, closing: AsyncExitStack) -> None:
    """On a port of their own, where one is set."""
    if settings.metrics_port is None:
        return
    server, thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
    closing.callback(thread.join, CLOSE_TIMEOUT_S)
    closing.callback(server.shutdown)
    logger.info("metrics", extra={"port": server.server_port})


def _open_paths(settings: Settings) -> frozenset[str]:
    """What asks for no key although keys are asked for."""
    metrics_paths = METRICS_PATHS if settings.metrics_access == "open" else frozenset()
    return metrics_paths | (DOCS_PATHS if settings.docs_access == "open" else frozenset())


def _shared(
    settings: Settings, fingerprint: str, executor: TimedExecutor, metrics: Metrics, closing: AsyncExitStack
) -> RedisBackend:
    """What replicas share; its client is closed with the rest."""
    breaker = CircuitBreaker(
        failures=settings.redis_breaker_failures, open_s=settings.redis_breaker_open_s, metrics=metrics
    )
    client: RedisClient | None = None
    if settings.redis_url is not None:
        client = connect(
            settings.redis_url.get_secret_value(),
            max_connections=settings.redis_max_connections,
            connect_timeout_s=settings.redis_connect_timeout_s,
            read_timeout_s=settings.redis_read_timeout_s,
            queue_timeout_s=settings.redis_queue_timeout_s,
        )
        closing.push_async_callback(client.aclose)
    return RedisBackend(
        client,
        breaker,
        fingerprint=fingerprint,
        cache_ttl_s=settings.cache_ttl_s,
        mask_ttl_s=settings.mask_ttl_s,
        lock_ttl_s=settings.redis_lock_ttl_s,
        metrics=metrics,
        executor=executor.executor,
    )


def _tracing(settings: Settings, closing: AsyncExitStack) -> Tracing | None:
    """What sends traces; None unless an endpoint is set."""
    if settings.otlp_endpoint is None:
        return None
    tracing = Tracing(settings.otlp_endpoint, version=__version__)
    closing.push_async_callback(asyncio.to_thread, tracing.close, CLOSE_TIMEOUT_S)
    return tracing
