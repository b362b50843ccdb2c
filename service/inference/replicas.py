"""The Redis backend: the parts of a replica that use Redis.

All replicas share embeddings, masks, deletions, the locks of single flight, and the token buckets of rate limits.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from service.cache.base import Codec
from service.cache.codecs import EmbeddingCodec, MaskCodec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.deletion_records import DeletionRecords
from service.cache.redis.deletions import Deletions
from service.cache.redis.kept_images import KeptImages
from service.cache.redis.lock import RedisLock
from service.cache.redis.models import ModelRegistry
from service.cache.redis.rate_buckets import RateBuckets
from service.cache.redis.tier import RedisCache
from service.inference.refinement_masks import LowResMask
from service.inference.scheduling.singleflight import SharedFlight
from service.sam.embedding import ImageEmbedding
from service.telemetry.metrics import Metrics

V = TypeVar("V")

# Lifetime of tombstones, in times to live of embeddings. A replica that receives no deletions still renews each
# embedding in use after a tenth of the time to live, and then finds the tombstone. An embedding that it last used
# shortly before that renewal stays in its memory for one more time to live.
_MARKS_PER_TTL = 1.2


@dataclass(frozen=True, slots=True)
class ModelCaches:
    """The caches of one model in Redis. All are None without Redis.

    Args:
        embeddings: Embeddings of all replicas.
        masks: Masks for refinement of all replicas.
        flight: Lock across replicas, so that one of them encodes an image.
    """

    embeddings: RedisCache[ImageEmbedding] | None = None
    masks: RedisCache[LowResMask] | None = None
    flight: SharedFlight[ImageEmbedding] | None = None


class RedisBackend:
    """Caches, kept images, deletions, locks and rate buckets over one client and one circuit breaker.

    All are None without Redis.

    Args:
        client: Client of Redis, which its owner closes; None without Redis.
        large_transfers: Client of the same Redis for large values, which its owner closes; None without Redis.
        copies: Client of the same Redis for kept images, which its owner closes; None where they are not kept.
        breaker: Circuit breaker of this Redis.
        cache_ttl_s: Seconds that an embedding is kept after its last use.
        mask_ttl_s: Seconds that a mask is kept after its last use.
        keep_images_s: Seconds that the copy of an upload is kept.
        lock_ttl_s: Seconds until another replica may encode an image whose replica was lost.
        metrics: Metrics of the process, which count look-ups of embeddings.
        executor: Threads that turn values into bytes and back.
    """

    def __init__(
        self,
        client: RedisClient | None,
        breaker: CircuitBreaker,
        *,
        large_transfers: RedisClient | None,
        copies: RedisClient | None,
        cache_ttl_s: float,
        mask_ttl_s: float,
        keep_images_s: float,
        lock_ttl_s: float,
        metrics: Metrics,
        executor: Executor,
    ) -> None:
        self.deletions: Deletions | None = None
        self.records: DeletionRecords | None = None
        self.registry: ModelRegistry | None = None
        self.buckets: RateBuckets | None = None
        self.kept: KeptImages | None = None
        self._client = client
        self._large_transfers = large_transfers
        self._breaker = breaker
        self._cache_ttl_s = cache_ttl_s
        self._mask_ttl_s = mask_ttl_s
        self._lock_ttl_s = lock_ttl_s
        self._metrics = metrics
        self._executor = executor
        if client is None:
            return
        self.deletions = Deletions(client, breaker, tombstone_ttl_s=_MARKS_PER_TTL * cache_ttl_s)
        self.records = DeletionRecords(client, breaker)
        self.registry = ModelRegistry(client, breaker, ttl_s=cache_ttl_s)
        self.buckets = RateBuckets(client, breaker)
        if copies is not None:
            self.kept = KeptImages(client, copies, breaker, ttl_s=keep_images_s, executor=executor)

    def of_model(self, fingerprint: str, *, has_high_res: bool) -> ModelCaches:
        """Return the caches of one model.

        Args:
            fingerprint: Fingerprint of the model. The caches refuse values of another one.
            has_high_res: Whether embeddings of the model have maps of high resolution.
        """
        if self._client is None:
            return ModelCaches()
        embeddings = RedisCache(
            self._client,
            EmbeddingCodec(fingerprint, has_high_res=has_high_res),
            ttl_s=self._cache_ttl_s,
            breaker=self._breaker,
            metrics=self._metrics,
            executor=self._executor,
            on_use=None if self.registry is None else self.registry.register,
            transfers=self._large_transfers if has_high_res else None,
        )
        masks = RedisCache(
            self._client,
            MaskCodec(fingerprint),
            ttl_s=self._mask_ttl_s,
            breaker=self._breaker,
            metrics=self._metrics,
            executor=self._executor,
            lookups=False,
        )
        lock = RedisLock(self._client, self._breaker, ttl_s=self._lock_ttl_s)
        return ModelCaches(embeddings, masks, SharedFlight(embeddings, lock, ttl_s=self._lock_ttl_s))

    def tier(self, codec: Codec[V], *, ttl_s: float, executor: Executor) -> RedisCache[V] | None:
        """Return a further tier of small values for all models, without a count of look-ups; None without Redis.

        Args:
            codec: Conversion between values and bytes.
            ttl_s: Seconds that a value is kept after its last use.
            executor: Threads that run the codec.
        """
        if self._client is None:
            return None
        return RedisCache(
            self._client,
            codec,
            ttl_s=ttl_s,
            breaker=self._breaker,
            metrics=self._metrics,
            executor=executor,
            lookups=False,
        )

    def describe(self) -> str:
        """Return the state of Redis for /readyz: `off`, `ok`, or `resting` while the circuit breaker is open."""
        if self._client is None:
            return "off"
        return "resting" if self._breaker.is_open else "ok"
