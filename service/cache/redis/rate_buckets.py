"""What callers have used of their rates, added up over all replicas in Redis."""

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable

# The value is the time at which the bucket will be full again, in microseconds of the server's clock (the generic cell
# rate algorithm, ITU-T I.371: one number and no refilling). What is read may be anything; it is cut to what it can be.
_SETTLE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local most = tonumber(ARGV[2])
local full_at = tonumber(redis.call('GETEX', KEYS[1]) or '')
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

# A debt beyond the burst is what replicas let in before they heard of each other. It is paid back, but not for ever.
_MOST_BURSTS = 2.0


class RateBuckets:
    """Token buckets by key, each charged for what has been taken already: nobody waits for Redis before taking.

    Needs TIME beyond the commands of caches and lock.

    Args:
        client: shared with the Redis tiers.
        breaker: shared by everything that asks this Redis.
        prefix: put before every key.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, prefix: str = "edgesam:limit:") -> None:
        self._client = client
        self._breaker = breaker
        self._prefix = prefix

    async def settle(self, key: str, *, taken_s: float, burst_s: float) -> float:
        """Charge a bucket with what was taken, and tell its debt, that of other replicas included; one round trip.

        Args:
            key: of the bucket.
            taken_s: tokens taken, as the time their refill takes, seconds.
            burst_s: the refill of the whole bucket, seconds.

        Returns:
            Seconds until the bucket is full; more than `burst_s` when it was overdrawn, twice that at most.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused; perhaps it charged.
        """
        command = (round(taken_s * 1e6), round(burst_s * _MOST_BURSTS * 1e6))
        answer = await self._client.call(self._breaker, "EVAL", _SETTLE, 1, self._prefix + key, *command)
        try:
            return int(answer) / 1e6
        except (TypeError, ValueError) as error:
            raise CacheUnavailable("The shared cache does not answer like Redis.", retry_after_s=1.0) from error
