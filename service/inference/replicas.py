"""What replicas share through Redis: embeddings, masks, deletions, who encodes what, and what callers have used."""

from concurrent.futures import Executor

from service.cache.base import Cache
from service.cache.codecs import EmbeddingCodec, MaskCodec
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.deletions import Deletions
from service.cache.redis.lock import RedisLock
from service.cache.redis.rate_buckets import RateBuckets
from service.cache.redis.tier import RedisCache, RedisClient
from service.inference.refinement_masks import LowResMask
from service.inference.scheduling.singleflight import SharedFlight
from service.sam.embedding import ImageEmbedding
from service.telemetry.metrics import Metrics

# A replica that hears nothing still asks whether what it uses is there, whenever a tenth of the time to live is over.
# What it used last within the first tenth after the deletion lies in its memory for another whole time to live.
_MARKS_PER_TTL = 1.2


class RedisBackend:
    """All of it over one client and one breaker; all of it None without Redis.

    Args:
        client: closed by whoever made it; None without Redis.
        breaker: of this Redis.
        fingerprint: of the served model.
        cache_ttl_s: seconds an embedding is kept after its last use.
        mask_ttl_s: the same for a mask.
        lock_ttl_s: seconds until another replica may encode what a lost one began.
        metrics: counts look-ups of embeddings.
        executor: turns values into bytes and back.
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
        self.masks: Cache[LowResMask] | None = None
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
        self.deletions = Deletions(client, breaker, mark_ttl_s=_MARKS_PER_TTL * cache_ttl_s)
        self.flight = SharedFlight(self.embeddings, RedisLock(client, breaker, ttl_s=lock_ttl_s), ttl_s=lock_ttl_s)
        self.buckets = RateBuckets(client, breaker)

    def describe(self) -> str:
        """For /readyz."""
        if self.embeddings is None:
            return "off"
        return "resting" if self._breaker.is_open else "ok"
