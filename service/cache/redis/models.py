"""The models whose embeddings Redis may have, so that the deletion of an image reaches those of all models.

The keys of an image differ by model, and a replica knows only the models that it serves itself. Other replicas may
serve others, and replaced models leave embeddings until these expire. So each replica records its models here while it
uses their embeddings. The record is one short value of the whole service. Its use every few seconds also keeps a full
Redis from evicting it.
"""

import re
from time import monotonic, time
from typing import Final

from redis.exceptions import ResponseError

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable
from service.sam.embedding import model_of_key

KEY: Final = "edgesam:models"
# Models that are recorded. A deletion costs one command for each.
MAX_MODELS: Final = 64
# Seconds between two records of a model by one replica.
REGISTER_EVERY_S: Final = 10.0
# Time for which a model is recorded after its last use, in times to live of embeddings. Values live 1.1 times as long.
_ENTRIES_PER_TTL: Final = 1.5

_MODEL: Final = re.compile(rb"([0-9a-f]{16}(?:-[a-z0-9]{1,16})?):(float16|float32|int8)=[0-9]+", re.ASCII)

# It adds one model with the time until which it counts, and leaves out those that no longer count.
_REGISTER: Final = """
local kept, ends_at, last = {}, tonumber(ARGV[3]), tonumber(ARGV[3])
for name, ends in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%S+)=(%d+)') do
    ends = tonumber(ends)
    if name == ARGV[1] then
        ends_at = math.max(ends_at, ends)
    elseif ends > tonumber(ARGV[2]) then
        kept[#kept + 1] = string.format('%s=%.0f', name, ends)
    end
    last = math.max(last, ends)
end
kept[#kept + 1] = string.format('%s=%.0f', ARGV[1], ends_at)
while #kept > tonumber(ARGV[4]) do table.remove(kept, 1) end
redis.call('SET', KEYS[1], table.concat(kept, ' '), 'PX', string.format('%.0f', last - tonumber(ARGV[2])))
return 1
"""


class ModelRegistry:
    """Records the models of this replica in Redis, and reads those of all replicas.

    Args:
        client: Redis client, shared with the cache tiers.
        breaker: Circuit breaker of this Redis.
        ttl_s: Time to live of an embedding, seconds.
    """

    def __init__(self, client: RedisClient, breaker: CircuitBreaker, *, ttl_s: float) -> None:
        self._client = client
        self._breaker = breaker
        self._ttl_ms = _ENTRIES_PER_TTL * ttl_s * 1000.0
        self._every_s = min(REGISTER_EVERY_S, ttl_s / 10)
        self._registered_at: dict[tuple[str, str], float] = {}

    async def register(self, key: str) -> None:
        """Record that Redis may have embeddings of a model. Most calls do nothing: a record serves for some seconds.

        Without the right to write it, nothing is recorded: a deletion then reaches the models of its replica alone.

        Args:
            key: Key of an embedding of the model.

        Raises:
            CacheUnavailable: Redis did not answer in time. The caller's own command would wait as long again.
        """
        model, now = model_of_key(key), monotonic()
        if now < self._registered_at.get(model, float("-inf")) + self._every_s:
            return
        self._registered_at[model] = now
        now_ms = time() * 1000.0
        times = (round(now_ms), round(now_ms + self._ttl_ms))
        try:
            await self._client.call(self._breaker, "EVAL", _REGISTER, 1, KEY, ":".join(model), *times, MAX_MODELS)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):  # a refusal would be repeated with every request
                self._registered_at.pop(model, None)
                raise

    async def models(self) -> list[tuple[str, str]]:
        """Return fingerprint and type of tokens of all recorded models.

        Text of another form is left out, since other users may write to the value. Without the right to read it there
        is no model.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        found: object = b""
        try:
            found = await self._client.call(self._breaker, "GET", KEY)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
        words = found.split(maxsplit=MAX_MODELS)[:MAX_MODELS] if isinstance(found, bytes) else []
        matches = [_MODEL.fullmatch(word) for word in words]
        return [(match[1].decode(), match[2].decode()) for match in matches if match is not None]
