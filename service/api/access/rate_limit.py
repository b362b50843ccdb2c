"""Rate limits of API keys: requests per second over all replicas, and requests in progress in this one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import monotonic

from service.api.access.policy import Quota
from service.cache.redis.rate_buckets import RateBuckets
from service.errors import CacheUnavailable, RateLimited

# Interval between two charges in Redis, in seconds. In this time and one round trip a replica may admit requests
# although other replicas have used up the tokens. Redis gets at most twenty commands a second for each key, and no
# request waits for it.
SETTLE_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Bounds of one API key for one quota. None is no bound.

    Args:
        per_s: Requests per second in the long run, over all replicas.
        burst: Requests at once after a pause; needs `per_s`.
        at_once: Requests in progress in one replica.
    """

    per_s: float | None = None
    burst: int | None = None
    at_once: int | None = None

    @property
    def bucket(self) -> "TokenBucket | None":
        """A new full bucket; None without a rate."""
        return None if self.per_s is None else TokenBucket(self.per_s, self.tokens)

    @property
    def tokens(self) -> int:
        """Tokens of a full bucket; 0 without a rate."""
        return 0 if self.per_s is None else self.burst or max(1, round(self.per_s))


class TokenBucket:
    """Tokens that come back at a steady rate. The state is the time at which the bucket will be full.

    Args:
        per_s: Tokens per second.
        burst: Tokens of a full bucket.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.token_s = 1.0 / per_s
        self.burst_s = burst / per_s
        self._clock = clock
        self._full_at = clock()

    def wait_s(self) -> float:
        """Return the time until there is a token, in seconds; 0 when there is one."""
        # A billionth of a token is a rounding error and no reason to refuse a request.
        missing_s = self._debt_s() + self.token_s - self.burst_s
        return missing_s if missing_s > self.token_s * 1e-9 else 0.0

    def take(self) -> None:
        """Take one token, even when there is none."""
        self._full_at = self._clock() + self._debt_s() + self.token_s

    def resize(self, per_s: float, burst: int) -> None:
        """Change the rate and the size. Tokens that are missing stay missing, at most `burst` of them.

        Args:
            per_s: Tokens per second from now on.
            burst: Tokens of a full bucket from now on.
        """
        missing = min(self._debt_s() / self.token_s, float(burst))
        self.token_s = 1.0 / per_s
        self.burst_s = burst / per_s
        self._full_at = self._clock() + missing * self.token_s

    def owe(self, debt_s: float) -> None:
        """Delay the time at which the bucket is full. A debt that is shorter than the bucket's own has no effect.

        Args:
            debt_s: Time in which the bucket will not be full, in seconds.
        """
        self._full_at = max(self._full_at, self._clock() + debt_s)

    def _debt_s(self) -> float:
        return max(0.0, self._full_at - self._clock())


class RateLimiter:
    """Enforces the rate limit of one API key and quota in this replica.

    This replica's own bucket admits or refuses each request at once. Admitted requests are charged in Redis afterwards.
    The answer of Redis includes the requests that all replicas admitted, and they count from then on. So the rate is
    exact in the long run. A burst may be exceeded by the requests that other replicas admit within SETTLE_EVERY_S.
    While Redis is unavailable, each replica enforces the rate by itself.

    Args:
        limit: Bounds of the key.
        key: Name of the bucket in Redis.
        shared: Buckets in Redis that all replicas charge; None without Redis.
        settle_every_s: Interval between two charges in Redis, in seconds.
    """

    def __init__(
        self, limit: RateLimit, key: str, shared: RateBuckets | None, *, settle_every_s: float = SETTLE_EVERY_S
    ) -> None:
        self.limit = limit
        self._key = key
        self._shared = shared
        self._settle_every_s = settle_every_s
        self._bucket = limit.bucket
        self._in_progress = 0
        self._unsettled = 0
        self._settling: asyncio.Task[None] | None = None

    def change(self, limit: RateLimit) -> None:
        """Change the bounds. Requests in progress and missing tokens still count.

        Redis stores a time. After a change of the rate this time stands for another number of tokens, at most for those
        of two full buckets.

        Args:
            limit: New bounds of the same key.
        """
        self.limit = limit
        if limit.per_s is None:
            self._bucket, self._unsettled = None, 0
        elif self._bucket is None:
            self._bucket = limit.bucket
        else:
            self._bucket.resize(limit.per_s, limit.tokens)

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Count one request as in progress until the block ends.

        Raises:
            RateLimited: Too many requests of the key are in progress, or too many came in the last time.
        """
        limit = self.limit
        if limit.at_once is not None and self._in_progress >= limit.at_once:
            raise RateLimited(
                f"{self._in_progress} requests of this API key are in progress in this replica, the most it may have. "
                "Wait for an answer before you send the next request.",
                retry_after_s=1.0,
                extra={"limit": limit.at_once},
            )
        if self._bucket is not None:
            self._take(self._bucket)
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1

    async def aclose(self) -> None:
        """Cancel the task that charges Redis."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)

    def _take(self, bucket: TokenBucket) -> None:
        wait_s = bucket.wait_s()
        if wait_s > 0.0:
            per_s = self.limit.per_s
            raise RateLimited(
                f"This API key may send {per_s:g} requests per second. Retry in {wait_s:.2g} s.",
                retry_after_s=wait_s,
                extra={"limit": per_s},
            )
        bucket.take()
        if self._shared is not None:
            self._unsettled += 1
            if self._settling is None:
                self._settling = asyncio.create_task(self._settle(self._shared), name="settle")

    async def _settle(self, shared: RateBuckets) -> None:
        """Charge the bucket in Redis until all admitted requests are charged."""
        try:
            while self._unsettled and (bucket := self._bucket) is not None:
                taken, self._unsettled = self._unsettled, 0
                try:
                    debt_s = await shared.settle(self._key, taken_s=taken * bucket.token_s, burst_s=bucket.burst_s)
                except CacheUnavailable:
                    pass  # this replica's own bucket has counted it; a later charge would count it twice
                else:
                    bucket.owe(debt_s + self._unsettled * bucket.token_s)
                await asyncio.sleep(self._settle_every_s)
        finally:
            self._settling = None


class RateLimiters:
    """The rate limiters of this replica, one for each API key and quota that has been used.

    Args:
        shared: Buckets in Redis that all replicas charge; None without Redis.
    """

    def __init__(self, shared: RateBuckets | None) -> None:
        self._shared = shared
        self._by_name: dict[tuple[str, Quota], RateLimiter] = {}

    def permit(self, name: str, quota: Quota, limit: RateLimit) -> AbstractContextManager[None]:
        """Return a context that counts one request as in progress; entering it raises RateLimited for one too many.

        Args:
            name: Name of the API key.
            quota: Quota that the request counts against.
            limit: Present bounds of the key for this quota. They change when the file of keys does.
        """
        found = self._by_name.get((name, quota))
        if found is None:
            found = self._by_name[name, quota] = RateLimiter(limit, f"{name}:{quota}", self._shared)
        elif found.limit != limit:
            found.change(limit)
        return found.permit()

    async def aclose(self) -> None:
        """Cancel all tasks that charge buckets in Redis."""
        for rate_limiter in self._by_name.values():
            await rate_limiter.aclose()
