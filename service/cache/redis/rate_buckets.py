"""Token buckets in Redis: the use of each API key, added up over all replicas."""

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable

# The value is the time at which the bucket will be full again, in microseconds of the server's clock. This is the
# generic cell rate algorithm (ITU-T I.371): one number and no refilling. The stored value may be damaged; it is
# clamped.
_SETTLE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local most = tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or '')
if not full_at or not (full_at > now) then
    full_at = now
end
full_at = full_at + tonumber(ARGV[1])
full_at = math.min(full_at, now + most)
if full_at > now then
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
end
return string.format('%.0f', full_at - now)
"""

# Replicas may admit more than the burst before they receive each other's charges. That debt is paid back, up to this
# factor.
_MOST_BURSTS = 2.0


class RateBuckets:
    """Token buckets by key. A bucket is charged afterwards, so that no request waits for Redis.

    The ACL user needs `+time` beyond the rights of the caches and the lock, see acl.py.

    Args:
        client: Redis client, shared with the cache tiers.
        breaker: Circuit breaker of this Redis.
        prefix: Text before every key.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, prefix: str = "edgesam:limit:") -> None:
        self._client = client
        self._breaker = breaker
        self._prefix = prefix

    async def settle(self, key: str, *, taken_s: float, burst_s: float) -> float:
        """Charge a bucket for the tokens that this replica took, in one round trip, and return its debt.

        Args:
            key: Key of the bucket.
            taken_s: Tokens taken, as the time of their refill, seconds.
            burst_s: Time in which the empty bucket fills, seconds.

        Returns:
            Seconds until the bucket is full, with the tokens that all replicas took. An overdrawn bucket has more than
            `burst_s`, at most twice that.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused. It may have charged the bucket.
        """
        command = (round(taken_s * 1e6), round(burst_s * _MOST_BURSTS * 1e6))
        answer = await self._client.call(self._breaker, "EVAL", _SETTLE, 1, self._prefix + key, *command)
        try:
            return int(answer) / 1e6
        except (TypeError, ValueError) as error:
            raise CacheUnavailable("The shared cache does not answer like Redis.", retry_after_s=1.0) from error
