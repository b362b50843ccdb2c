"""The Redis backend: the parts of a replica that use Redis.

All replicas share embeddings, masks, deletions, the locks of single flight, and the token buckets of rate limits.
"""

from concurrent.futures import Executor

from service.cache.codecs import EmbeddingCodec, MaskCodec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.cache.redis.deletions import Deletions
from service.cache.redis.lock import RedisLock
from service.cache.redis.rate_buckets import RateBuckets
from service.cache.redis.tier import RedisCache
from service.inference.refinement_masks import LowResMask
from service.inference.scheduling.singleflight import SharedFlight
from service.sam.embedding import ImageEmbedding
from service.telemetry.metrics import Metrics

# Lifetime of tombstones, in times to live of embeddings. A replica that receives no deletions still renews each
# embedding in use after a tenth of the time to live, and then finds the tombstone. An embedding that it last used
# shortly before that renewal stays in its memory for one more time to live.
_MARKS_PER_TTL = 1.2


class RedisBackend:
    """Caches, deletions, locks and rate buckets over one client and one circuit breaker. All are None without Redis.

    Args:
        client: Client of Redis, which its owner closes; None without Redis.
        breaker: Circuit breaker of this Redis.
        fingerprint: Fingerprint of the served model.
        cache_ttl_s: Seconds that an embedding is kept after its last use.
        mask_ttl_s: Seconds that a mask is kept after its last use.
        lock_ttl_s: Seconds until another replica may encode an image whose replica was lost.
        metrics: Metrics of the process, which count look-ups of embeddings.
        executor: Threads that turn values into bytes and back.
    """

    def __init__(
        self,
        client: RedisClient | None,
        breaker: CircuitBreaker,
        *,
        fingerprint: str,
        cache_ttl_s: float,
        mask_ttl_s: float,
        lock_ttl_s: float,
        metrics: Metrics,
        executor: Executor,
    ) -> None:
        self.embeddings: RedisCache[ImageEmbedding] | None = None
        self.masks: RedisCache[LowResMask] | None = None
        self.deletions: Deletions | None = None
        self.flight: SharedFlight[ImageEmbedding] | None = None
        self.buckets: RateBuckets | None = None
        self._breaker = breaker
        if client is None:
            return
        self.embeddings = RedisCache(
            client,
            EmbeddingCodec(fingerprint),
            ttl_s=cache_ttl_s,
            breaker=breaker,
            metrics=metrics,
            executor=executor,
        )
        self.masks = RedisCache(
            client,
            MaskCodec(fingerprint),
            ttl_s=mask_ttl_s,
            breaker=breaker,
            metrics=metrics,
            executor=executor,
            lookups=False,
        )
        self.deletions = Deletions(client, breaker, tombstone_ttl_s=_MARKS_PER_TTL * cache_ttl_s)
        self.flight = SharedFlight(self.embeddings, RedisLock(client, breaker, ttl_s=lock_ttl_s), ttl_s=lock_ttl_s)
        self.buckets = RateBuckets(client, breaker)

    def describe(self) -> str:
        """Return the state of Redis for /readyz: `off`, `ok`, or `resting` while the circuit breaker is open."""
        if self.embeddings is None:
            return "off"
        return "resting" if self._breaker.is_open else "ok"
