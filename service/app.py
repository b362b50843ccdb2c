"""The composition root: settings in, a FastAPI application out. The only place that knows every part."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry, start_http_server
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from service import __version__, native
from service.api.access.keys import KeyFile, KeyRing
from service.api.access.middleware import AccessMiddleware, Allowances
from service.api.access.rules import DOCS_PATHS, METRICS_PATHS
from service.api.adapters import install_adapters
from service.api.adapters.exchange import Exchange
from service.api.admission import AdmissionMiddleware, Elsewhere, Permits
from service.api.docs import DOCUMENT_PATH, install_docs_page
from service.api.downloads import EMBEDDING_ROUTE, install_embedding_download
from service.api.health import Readiness, install_health_routes, install_metrics_route
from service.api.middleware import RequestMiddleware
from service.api.model_files import MODEL_FILE_ROUTE, ModelFile, install_model_files, read_model_files
from service.api.pages import RUNTIME_ROUTE, install_pages
from service.api.problems import install_problem_handlers
from service.api.routes import RequestLimits, install_routes
from service.api.schemas import ModelModel, ProblemModel, SegmentRequest
from service.cache.base import Cache
from service.cache.breaker import CircuitBreaker
from service.cache.bucket import SharedBuckets
from service.cache.codecs import EmbeddingCodec, MaskCodec
from service.cache.lock import RedisLock
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache, connect
from service.inference.admission import AdmissionController
from service.inference.background import BackgroundWork
from service.inference.batching import DynamicBatcher
from service.inference.lanes import DecodeItem, decode_lane, encode_lane
from service.inference.predictor import Limits, Predictor
from service.inference.refinement import LowResMask, RefinementMasks
from service.inference.runtime import Decoded, ImageState, Runtime
from service.inference.singleflight import SharedFlight
from service.inference.states import ImageStates
from service.inference.threads import available_cpus
from service.inference.workers import Workers
from service.metrics import Metrics
from service.sam.embedding import ImageEmbedding
from service.sam.runs import MaskLibrary
from service.settings import Settings

if TYPE_CHECKING:
    from service.tracing import Tracing

logger = logging.getLogger(__name__)

# What pages of other origins may send and read (CORS).
ALLOWED_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-API-Key",
    "X-Image-Hash",
    "X-Request-ID",
    "traceparent",
    "If-None-Match",
    "Range",
)
EXPOSED_HEADERS = (
    "Server-Timing",
    "X-Request-ID",
    "Retry-After",
    "X-Cache",
    "X-Mask-Id",
    "X-Mask-Score",
    "X-Mask-Area",
    "X-Mask-Box",
    "ETag",
    "Content-Range",
    "X-Embedding-Shape",
    "X-Embedding-Dtype",
    "X-Image-Size",
    "X-Fingerprint",
    "X-Granularity-Box",
)
# What a replica of a role leaves to others. Looking a picture up needs Redis only, so that both do it.
ELSEWHERE: Mapping[str, Sequence[tuple[str, str]]] = {
    "all": [],
    "embed": [("POST", "/segment")],
    "segment": [("POST", "/embed"), ("GET", EMBEDDING_ROUTE), ("DELETE", EMBEDDING_ROUTE)],
}
# A task behind an answer holds an embedding of 2 to 4 MiB, or the masks of a request, 128 KiB each.
MAX_BACKGROUND_TASKS = 32
CLOSE_TIMEOUT_S = 2.0

DESCRIPTION = """
Embed a picture once with `POST /embed`; then every click is one small `POST /segment` with the picture's hash.

Coordinates are pixels of the upright picture. Errors are problem documents (RFC 9457) with a stable `code` and a
`detail` that says what to do.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, to be run by an ASGI server; `app.state.readiness` tells what /readyz answers.

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
    readiness = Readiness()
    closing = AsyncExitStack()  # what is pushed here is closed in reverse order
    uploads = Workers("upload", max(1, threads // 2), yields=True)
    clicks = Workers("click", threads + 1)
    closing.callback(uploads.close)
    closing.callback(clicks.close)
    encoding = encode_lane(
        runtime,
        dtype=settings.embedding_dtype,
        max_batch_size=settings.max_encode_batch,
        max_queue_size=settings.max_encode_queue,
        metrics=metrics,
    )
    is_native = runtime.decoder.startswith("native")
    library = None if settings.decoder == "onnx" else native.library()  # "onnx" is for those who want no C at all
    drawing = None if library is None else MaskLibrary(library)
    # The native decoder takes prompts one by one: a batch would only keep its first prompt waiting for its last.
    max_decode_batch = 1 if is_native else settings.max_decode_batch
    decoding = decode_lane(
        runtime,
        max_batch_size=max_decode_batch,
        max_queue_size=settings.max_decode_queue,
        calls=settings.decode_workers or (runtime.threads if is_native else 1),
        threads=runtime.threads,
        finishers=threads + 1,
        metrics=metrics,
    )
    memory: MemoryCache[ImageState] = MemoryCache(settings.memory_cache_bytes, settings.cache_ttl_s, metrics)
    mask_memory: MemoryCache[LowResMask] = MemoryCache(
        settings.mask_memory_bytes, settings.mask_ttl_s, metrics, "mask_memory"
    )
    shared = _Shared(settings, metrics, runtime.fingerprint, clicks, closing)
    allowances = Allowances(shared.buckets)
    closing.push_async_callback(allowances.aclose)
    background = BackgroundWork(MAX_BACKGROUND_TASKS, metrics)
    closing.push_async_callback(background.aclose, CLOSE_TIMEOUT_S)
    closing.push_async_callback(decoding.aclose)
    closing.push_async_callback(encoding.aclose)
    predictor = Predictor(
        runtime=runtime,
        encode_lane=encoding,
        decode_lane=decoding,
        states=ImageStates(
            memory,
            shared.embeddings,
            runtime=runtime,
            workers=clicks,
            background=background,
            renew_every_s=settings.cache_ttl_s / 10,
        ),
        flight=shared.flight,
        masks=RefinementMasks(mask_memory, shared.masks, background),
        uploads=uploads,
        clicks=clicks,
        dtype=settings.embedding_dtype,
        drawing=drawing,
        limits=Limits(
            max_pixels=settings.max_image_pixels,
            max_decode_batch=max_decode_batch,
            embed_timeout_s=settings.embed_timeout_s,
            segment_timeout_s=settings.segment_timeout_s,
        ),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with closing:
            if settings.metrics_port is not None:
                server, thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
                closing.callback(thread.join, CLOSE_TIMEOUT_S)
                closing.callback(server.shutdown)
                logger.info("metrics", extra={"port": server.server_port})
            if key_file is not None:
                closing.callback(key_file.close)
                key_file.start()
            encoding.start()
            decoding.start()
            await asyncio.to_thread(runtime.warm_up)
            _announce(runtime, settings.role, metrics)
            yield

    app = FastAPI(
        title="EdgeSAM",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None if settings.docs_access == "off" else DOCUMENT_PATH,
    )
    app.state.readiness = readiness
    access = None if keys is None else _Access(keys, allowances)
    tracing = _tracing(settings, closing)
    _install(
        app,
        settings,
        runtime=runtime,
        predictor=predictor,
        decoding=decoding,
        shared=shared,
        readiness=readiness,
        metrics=metrics,
        access=access,
        tracing=tracing,
    )
    return app


@dataclass(frozen=True, slots=True)
class _Access:
    """Where keys are asked for: which there are, and what is left of their limits."""

    keys: KeyRing
    allowances: Allowances


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


def _install(
    app: FastAPI,
    settings: Settings,
    *,
    runtime: Runtime,
    predictor: Predictor,
    decoding: DynamicBatcher[DecodeItem, Decoded],
    shared: "_Shared",
    readiness: Readiness,
    metrics: Metrics,
    access: _Access | None,
    tracing: "Tracing | None",
) -> None:
    """Routes, pages, problems and middleware."""
    limits = RequestLimits(
        max_image_bytes=settings.max_image_bytes,
        max_request_bytes=settings.max_request_bytes,
        max_prompts=settings.max_prompts,
        body_timeout_s=settings.body_timeout_s,
        min_bytes_per_s=settings.min_upload_bytes_per_s,
    )
    runtime_dir = settings.browser_runtime_dir
    model_files = {} if runtime_dir is None else read_model_files(settings.model_dir, runtime.manifest)
    install_routes(
        app,
        predictor,
        limits=limits,
        expires_in_s=settings.cache_ttl_s,
        description=_description(runtime, settings, model_files),
        metrics=metrics,
    )
    if model_files:
        install_model_files(app, model_files, metrics)
    install_embedding_download(app, predictor, fingerprint=runtime.fingerprint, metrics=metrics)
    manifest = runtime.manifest
    exchange = Exchange(predictor, limits, manifest.name, settings.label_studio_files)
    adapter_routes = install_adapters(app, settings.adapters, exchange)
    install_health_routes(app, readiness, model=manifest.name, trained=manifest.trained, redis=shared.describe)
    if settings.metrics_port is None and settings.metrics_access != "off":
        install_metrics_route(app, metrics.registry)
    install_pages(app, runtime_dir)
    if settings.docs_access != "off":
        install_docs_page(app)
    install_problem_handlers(app, metrics)
    app.openapi = lambda: _openapi(app, needs_key=access is not None)  # type: ignore[method-assign]
    _add_middleware(app, settings, metrics, adapter_routes, decoding, tracing, access)


class _Shared:
    """What replicas share through Redis; all of it None without a Redis URL."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        fingerprint: str,
        workers: Workers,
        closing: AsyncExitStack,
    ) -> None:
        self.embeddings: Cache[ImageEmbedding] | None = None
        self.masks: Cache[LowResMask] | None = None
        self.flight: SharedFlight[ImageEmbedding] | None = None
        self.buckets: SharedBuckets | None = None
        self._breaker = CircuitBreaker(
            failures=settings.redis_breaker_failures, open_s=settings.redis_breaker_open_s, metrics=metrics
        )
        if settings.redis_url is None:
            return
        client = connect(
            settings.redis_url.get_secret_value(),
            max_connections=settings.redis_max_connections,
            connect_timeout_s=settings.redis_connect_timeout_s,
            read_timeout_s=settings.redis_read_timeout_s,
            queue_timeout_s=settings.redis_queue_timeout_s,
        )
        closing.push_async_callback(client.aclose)
        self.embeddings = RedisCache(
            client,
            EmbeddingCodec(fingerprint),
            ttl_s=settings.cache_ttl_s,
            breaker=self._breaker,
            metrics=metrics,
            executor=workers.executor,
        )
        self.masks = RedisCache(
            client,
            MaskCodec(fingerprint),
            ttl_s=settings.mask_ttl_s,
            breaker=self._breaker,
            metrics=metrics,
            executor=workers.executor,
            lookups=False,
        )
        lock = RedisLock(client, self._breaker, ttl_s=settings.redis_lock_ttl_s)
        self.flight = SharedFlight(self.embeddings, lock, ttl_s=settings.redis_lock_ttl_s)
        self.buckets = SharedBuckets(client, self._breaker)

    def describe(self) -> str:
        """For /readyz."""
        if self.embeddings is None:
            return "off"
        return "resting" if self._breaker.is_open else "ok"


def _tracing(settings: Settings, closing: AsyncExitStack) -> "Tracing | None":
    """What sends traces; None unless an endpoint is set."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.tracing import Tracing  # noqa: PLC0415 - few want it, and it brings packages of its own
    except ImportError as error:
        raise ValueError("EDGESAM_OTLP_ENDPOINT is set and OpenTelemetry is missing: pip install '.[otel]'") from error
    tracing = Tracing(settings.otlp_endpoint, version=__version__)
    closing.push_async_callback(asyncio.to_thread, tracing.close, CLOSE_TIMEOUT_S)
    return tracing


def _add_middleware(
    app: FastAPI,
    settings: Settings,
    metrics: Metrics,
    adapter_routes: Iterable[str],
    decoding: DynamicBatcher[DecodeItem, Decoded],
    tracing: "Tracing | None",
    access: _Access | None,
) -> None:
    """The last added is the outermost: CORS, so that every answer can be read by a page, then the request itself."""
    uploads = AdmissionController(settings.max_embed_requests, "uploads")
    downloads = AdmissionController(settings.max_embed_requests, "downloads")
    permits: dict[tuple[str, str], Permits] = {
        ("POST", "/embed"): uploads,
        ("POST", "/segment"): AdmissionController(
            settings.max_segment_requests, "prompt requests", check=decoding.check_room
        ),
        **dict.fromkeys((("GET", route) for route in (EMBEDDING_ROUTE, MODEL_FILE_ROUTE)), downloads),
        # Of its own: it asks for no key, so strangers who read slowly would keep those with one from theirs.
        ("GET", RUNTIME_ROUTE): AdmissionController(settings.max_embed_requests, "downloads of the page's runtime"),
        **{("POST", route): uploads for route in adapter_routes},
        **dict.fromkeys(ELSEWHERE[settings.role], Elsewhere(settings.role)),
    }
    app.add_middleware(AdmissionMiddleware, permits=permits, metrics=metrics)
    if access is not None:
        open_paths = METRICS_PATHS if settings.metrics_access == "open" else frozenset()
        open_paths |= DOCS_PATHS if settings.docs_access == "open" else frozenset()
        app.add_middleware(
            AccessMiddleware,
            ring=access.keys,
            allowances=access.allowances,
            routes=app.router.routes,
            open_paths=open_paths,
            metrics=metrics,
        )
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        routes=app.router.routes,
        send_timeout_s=settings.send_timeout_s,
        tracing=tracing,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=ALLOWED_HEADERS,
            expose_headers=list(EXPOSED_HEADERS),
            max_age=86400,
        )


def _openapi(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """FastAPI's document, the schemas of bodies that the routes read themselves, and how a key is sent."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, extra = models_json_schema(
            [(SegmentRequest, "validation"), (ProblemModel, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(extra["$defs"])
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [*([] if needs_key else [{}]), {"bearer": []}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _description(runtime: Runtime, settings: Settings, files: Mapping[str, ModelFile]) -> ModelModel:
    manifest = runtime.manifest
    return ModelModel(
        **manifest.model_dump(
            include={
                "name", "architecture", "trained", "licence", "training_data", "measured", "notes", "image_size",
                "upsample_mode", "weights",
            }
        ),
        fingerprint=runtime.fingerprint,
        precision=runtime.precision,
        provider=runtime.provider,
        granularity=manifest.granularity is not None,
        decoder=runtime.decoder,
        provider_timings_ms=runtime.provider_timings_ms,
        role=settings.role,
        threads=runtime.threads,
        embedding_dtype=settings.embedding_dtype,
        files={part: file.described for part, file in files.items()},
        limits={
            "max_image_bytes": settings.max_image_bytes,
            "max_image_pixels": settings.max_image_pixels,
            "max_prompts": settings.max_prompts,
        },
    )  # fmt: skip


def _announce(runtime: Runtime, role: str, metrics: Metrics) -> None:
    manifest = runtime.manifest
    metrics.model_info.labels(
        manifest.name, runtime.fingerprint, runtime.provider, runtime.precision, str(manifest.trained).lower()
    ).set(1)
    logger.info(
        "ready",
        extra={
            "role": role,
            "model": manifest.name,
            "fingerprint": runtime.fingerprint,
            "provider": runtime.provider,
            "precision": runtime.precision,
            "decoder": runtime.decoder,
            "provider_timings_ms": runtime.provider_timings_ms,
            "threads": runtime.threads,
        },
    )
    if not manifest.trained:
        logger.warning(
            "the model %s is not trained: its masks mean nothing. Point EDGESAM_MODEL_DIR to a trained one; "
            "`python -m model_store list` shows what there is",
            manifest.name,
        )
