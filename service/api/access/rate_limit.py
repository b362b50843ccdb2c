"""How much one caller may ask for: a rate that all replicas share, and requests at the same time in this one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from service.cache.redis.rate_buckets import RateBuckets
from service.errors import CacheUnavailable, RateLimited

# How often a replica tells Redis what it let in. In this time and one round trip it may let in what others have used
# up: the overshoot. Redis is asked no more than twenty times a second for each caller, and no request waits for it.
SETTLE_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a caller may do; None is no bound.

    Args:
        per_s: requests a second in the long run, over all replicas.
        burst: requests at once after a pause; needs `per_s`.
        at_once: requests in progress in one replica.
    """

    per_s: float | None = None
    burst: int | None = None
    at_once: int | None = None

    @property
    def bucket(self) -> "TokenBucket | None":
        """A full one; None without a rate."""
        return None if self.per_s is None else TokenBucket(self.per_s, self.tokens)

    @property
    def tokens(self) -> int:
        """What a full bucket holds, 0 without a rate."""
        return 0 if self.per_s is None else self.burst or max(1, round(self.per_s))


class TokenBucket:
    """Tokens that come back at a steady rate, told as the time until all are there again.

    Args:
        per_s: tokens a second.
        burst: tokens it holds.
        clock: seconds that never go back.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.token_s = 1.0 / per_s
        self.burst_s = burst / per_s
        self._clock = clock
        self._full_at = clock()

    def wait_s(self) -> float:
        """Time until there is a token; 0 when there is one."""
        # A billionth of a token is rounding and no reason to send somebody away.
        missing_s = self._debt_s() + self.token_s - self.burst_s
        return missing_s if missing_s > self.token_s * 1e-9 else 0.0

    def take(self) -> None:
        """One token, there or not."""
        self._full_at = self._clock() + self._debt_s() + self.token_s

    def resize(self, per_s: float, burst: int) -> None:
        """Go on with other numbers: the tokens that are missing stay so, but for those it has no place for."""
        missing = min(self._debt_s() / self.token_s, float(burst))
        self.token_s = 1.0 / per_s
        self.burst_s = burst / per_s
        self._full_at = self._clock() + missing * self.token_s

    def owe(self, debt_s: float) -> None:
        """Learn that it will not be full for `debt_s`; a shorter time is no news."""
        self._full_at = max(self._full_at, self._clock() + debt_s)

    def _debt_s(self) -> float:
        return max(0.0, self._full_at - self._clock())


class RateLimiter:
    """One caller's allowance in this replica.

    A request is decided here and now. What was let in is charged in Redis behind it, and the answer, what all replicas
    have let in, counts from then on. So in the long run the rate is exact, and a burst may be exceeded by what the
    other replicas let in within SETTLE_EVERY_S. While Redis cannot be asked each replica keeps the rate for itself.

    Args:
        allowed: the bounds.
        key: of the shared bucket.
        shared: None without Redis.
        settle_every_s: see SETTLE_EVERY_S.
    """

    def __init__(
        self, allowed: RateLimit, key: str, shared: RateBuckets | None, *, settle_every_s: float = SETTLE_EVERY_S
    ) -> None:
        self.allowed = allowed
        self._key = key
        self._shared = shared
        self._settle_every_s = settle_every_s
        self._bucket = allowed.bucket
        self._in_progress = 0
        self._unsettled = 0
        self._settling: asyncio.Task[None] | None = None

    def change(self, allowed: RateLimit) -> None:
        """Other bounds for the same caller, whose requests in progress and missing tokens still count.

        What Redis has is a time and stays one: after a change of the rate it stands for another number of tokens, at
        most for two full buckets.
        """
        self.allowed = allowed
        if allowed.per_s is None:
            self._bucket, self._unsettled = None, 0
        elif self._bucket is None:
            self._bucket = allowed.bucket
        else:
            self._bucket.resize(allowed.per_s, allowed.tokens)

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Be one of the requests in progress.

        Raises:
            RateLimited: too many are, or too many came in the last time.
        """
        allowed = self.allowed
        if allowed.at_once is not None and self._in_progress >= allowed.at_once:
            raise RateLimited(
                f"{self._in_progress} requests of this key are in progress here, as many as it may have at once. "
                "Wait for an answer before the next request.",
                retry_after_s=1.0,
                extra={"limit": allowed.at_once},
            )
        if self._bucket is not None:
            self._take(self._bucket)
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1

    async def aclose(self) -> None:
        """Settle no further."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)

    def _take(self, bucket: TokenBucket) -> None:
        wait_s = bucket.wait_s()
        if wait_s > 0.0:
            per_s = self.allowed.per_s
            raise RateLimited(
                f"This key may ask {per_s:g} times a second. Retry in {wait_s:.2g} s.",
                retry_after_s=wait_s,
                extra={"limit": per_s},
            )
        bucket.take()
        if self._shared is not None:
            self._unsettled += 1
            if self._settling is None:
                self._settling = asyncio.create_task(self._settle(self._shared), name="settle")

    async def _settle(self, shared: RateBuckets) -> None:
        """Charge until nothing is left to charge, and end."""
        try:
            while self._unsettled and (bucket := self._bucket) is not None:
                taken, self._unsettled = self._unsettled, 0
                try:
                    debt_s = await shared.settle(self._key, taken_s=taken * bucket.token_s, burst_s=bucket.burst_s)
                except CacheUnavailable:
                    pass  # this replica's own bucket has it; charged later it would be counted twice against the rate
                else:
                    bucket.owe(debt_s + self._unsettled * bucket.token_s)
                await asyncio.sleep(self._settle_every_s)
        finally:
            self._settling = None
