"""The caches in memory, in Redis and on disk, made from the settings."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.missed_deletions import MissedDeletions
from service.cache.disk.tier import TIER, DiskTier
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
    """The caches of this process, of Redis and of the disk. All models share them: every key names its model.

    Args:
        redis: Redis backend, which all replicas share.
        states: Image states in memory.
        masks: Masks for refinement in memory.
        recent_deletions: Images that were deleted a short time ago.
        disk: Files of embeddings; None without a folder for them.
    """

    redis: RedisBackend
    states: MemoryCache[ImageState]
    masks: MemoryCache[LowResMask]
    recent_deletions: RecentDeletions
    disk: "Disk | None"


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk tier, and the deletions that it missed.

    Args:
        tier: Embeddings in files.
        missed: Comparison of the files with deletions that happened while this replica was off.
    """

    tier: DiskTier
    missed: MissedDeletions

    def start(self) -> None:
        """Begin to maintain the folder."""
        self.tier.start()
        self.missed.start()

    async def aclose(self) -> None:
        """End, after the writes in progress."""
        await self.missed.aclose()
        await self.tier.aclose()


def build_cache(settings: Settings, executor: TimedExecutor, metrics: Metrics, closing: AsyncExitStack) -> Cache:
    """Return the caches in memory, in Redis and on disk.

    Args:
        settings: Settings of the service.
        executor: Threads that encode and decode the values in Redis.
        metrics: Metrics of the process.
        closing: Stack that gets what has to be closed at the end.

    Raises:
        ValueError: The folder of the disk cache cannot be used.
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
    disk = _disk(settings, redis, metrics)
    if disk is not None:
        closing.push_async_callback(disk.aclose)
    recent_deletions = RecentDeletions(2.0 * max(settings.embed_timeout_s, settings.segment_timeout_s))
    return Cache(
        redis=redis,
        states=MemoryCache(settings.memory_cache_bytes, settings.cache_ttl_s, metrics, group=deletion_group),
        masks=MemoryCache(
            settings.mask_memory_bytes, settings.mask_ttl_s, metrics, "mask_memory", group=deletion_group
        ),
        # A request that waits for an embedding has a deadline. One that joins its wait may have a later one.
        recent_deletions=recent_deletions,
        disk=disk,
    )


def _disk(settings: Settings, redis: RedisBackend, metrics: Metrics) -> Disk | None:
    """Return the disk tier, where it has a folder.

    Raises:
        ValueError: The folder cannot be created or read.
    """
    if settings.disk_cache_dir is None:
        return None
    evictions = metrics.cache_evictions_total.labels(TIER)
    try:
        # A link to the folder is followed, and links in it are not.
        path = settings.disk_cache_dir.expanduser().resolve()
        folder = EmbeddingFolder(path, settings.disk_cache_bytes, on_evicted=evictions.inc)
        folder.create()
        tier = DiskTier(folder, metrics)
        missed = MissedDeletions(tier, redis.records)
        missed.read_checked_at()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"EDGESAM_DISK_CACHE_DIR={settings.disk_cache_dir}: the folder cannot be created or read ({error}). Give a "
            "folder to which the service may write, or leave it unset"
        ) from error
    return Disk(tier, missed)


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
