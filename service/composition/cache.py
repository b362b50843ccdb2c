"""The caches in memory and in Redis, made from the settings."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.connect import connect
from service.inference.backends.image_state import ImageState
from service.inference.refinement_masks import LowResMask
from service.inference.replicas import RedisBackend
from service.inference.scheduling.executors import TimedExecutor
from service.sam.embedding import deletion_group
from service.settings import Settings
from service.telemetry.metrics import Metrics

# Connections of a process for values of 8 MiB, and how much more time these have than values of 2 MiB. Two at a time
# arrive after 39 ms each, at most 92. Eight at a time arrive after 178 ms, at most 273, and all of them together are no
# faster (uvloop, two busy CPUs).
LARGE_TRANSFERS = 2
_LARGE_FACTOR = 4.0
# As much for copies of uploads, which have up to 32 MiB. They have connections of their own: embeddings should not wait
# behind them.
_COPY_FACTOR = 16.0


@dataclass(frozen=True, slots=True)
class Cache:
    """The caches of this process and of Redis. All models share them: every key names its model.

    Args:
        redis: Redis backend, which all replicas share.
        states: Image states in memory.
        masks: Masks for refinement in memory.
        recent_deletions: Images that were deleted a short time ago.
    """

    redis: RedisBackend
    states: MemoryCache[ImageState]
    masks: MemoryCache[LowResMask]
    recent_deletions: RecentDeletions


def build_cache(settings: Settings, executor: TimedExecutor, metrics: Metrics, closing: AsyncExitStack) -> Cache:
    """Return the caches in memory and in Redis.

    Args:
        settings: Settings of the service.
        executor: Threads that encode and decode the values in Redis.
        metrics: Metrics of the process.
        closing: Stack that gets what has to be closed at the end.
    """
    breaker = CircuitBreaker(
        failures=settings.redis_breaker_failures, open_s=settings.redis_breaker_open_s, metrics=metrics
    )
    client, large_transfers, copies = _clients(settings)
    for opened in (client, large_transfers, copies):
        if opened is not None:
            closing.push_async_callback(opened.aclose)
    redis = RedisBackend(
        client,
        breaker,
        large_transfers=large_transfers,
        copies=copies,
        cache_ttl_s=settings.cache_ttl_s,
        mask_ttl_s=settings.mask_ttl_s,
        keep_images_s=settings.keep_images_s,
        lock_ttl_s=settings.redis_lock_ttl_s,
        metrics=metrics,
        executor=executor.executor,
    )
    return Cache(
        redis=redis,
        states=MemoryCache(settings.memory_cache_bytes, settings.cache_ttl_s, metrics, group=deletion_group),
        masks=MemoryCache(
            settings.mask_memory_bytes, settings.mask_ttl_s, metrics, "mask_memory", group=deletion_group
        ),
        # A request that waits for an embedding has a deadline. One that joins its wait may have a later one.
        recent_deletions=RecentDeletions(2.0 * max(settings.embed_timeout_s, settings.segment_timeout_s)),
    )


def _clients(settings: Settings) -> tuple[RedisClient | None, RedisClient | None, RedisClient | None]:
    """Return the clients of all commands, of large values, and of kept images. They open connections when used."""
    if settings.redis_url is None:
        return None, None, None
    few = min(LARGE_TRANSFERS, settings.redis_max_connections)
    client = _client(settings, settings.redis_max_connections)
    large_transfers = _client(settings, few, _LARGE_FACTOR)
    return client, large_transfers, _client(settings, few, _COPY_FACTOR) if settings.keep_images_s else None


def _client(settings: Settings, max_connections: int, factor: float = 1.0) -> RedisClient:
    """Return a client whose commands take a multiple of the usual time."""
    assert settings.redis_url is not None
    return connect(
        settings.redis_url.get_secret_value(),
        max_connections=max_connections,
        connect_timeout_s=settings.redis_connect_timeout_s,
        read_timeout_s=factor * settings.redis_read_timeout_s,
        queue_timeout_s=factor * settings.redis_queue_timeout_s,
    )
