"""Readings of one image other than the usual one in Redis: they are deleted together with the image.

An image that was uploaded with other levels or bands, and each region of an image, is a value of its own, a variant.
The deletion of the image must reach all of its variants, also those that a replica is about to store. So it sets a
second tombstone, of the image with all its variants, which stays for its time to live. A variant that was uploaded
afterwards records that it is newer. An index holds the names of the stored variants, so that the deletion can remove
them. Redis may evict the index, so every variant that is read from Redis is checked against the tombstones.

All these keys are in the slot of the image's own key, so that a cluster accepts them in one script.
"""

import re
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.client import RedisClient
from service.errors import CacheUnavailable
from service.sam.embedding import is_variant_key, plain_key, variant_key
from service.sam.image_id import VARIANT_PATTERN

# Variants of one image that Redis holds. The first stored ones are removed for further ones. Regions of two layers of
# crops are 20, and of three layers 84.
MAX_VARIANTS = 128

_VARIANT = re.compile(VARIANT_PATTERN, re.ASCII)

# The unaccepted tombstones of a variant, joined by a space. The index is renewed, since its variant is in use.
_TOMBSTONE = """
local own = redis.call('GET', KEYS[1]) or ''
local all = redis.call('GET', KEYS[2]) or ''
if all == (redis.call('GET', KEYS[3]) or '') then all = '' end
redis.call('PEXPIRE', KEYS[4], ARGV[1])
if own ~= '' and all ~= '' then return own .. ' ' .. all end
return own .. all
"""

# As for other values (`RedisCache.put_unless_deleted`), run after a plain SET. It returns the outcome, and the names of
# variants to remove.
_SETTLE = """
local own = redis.call('GET', KEYS[2]) or ''
local all = redis.call('GET', KEYS[3]) or ''
local is_accepted = all == (redis.call('GET', KEYS[4]) or '')
local function is_unknown(tombstone)
    return tombstone ~= '' and not string.find(ARGV[1], tombstone, 1, true)
end
if is_unknown(own) or (not is_accepted and is_unknown(all)) then
    redis.call('UNLINK', KEYS[1])
    return {'refused'}
end
redis.call('UNLINK', KEYS[2])
if all ~= '' then redis.call('SET', KEYS[4], all, 'PX', ARGV[3]) end
local names, is_listed = {}, false
for name in string.gmatch(redis.call('GET', KEYS[5]) or '', '%S+') do
    names[#names + 1] = name
    is_listed = is_listed or name == ARGV[2]
end
if not is_listed then names[#names + 1] = ARGV[2] end
local answer = {redis.call('EXISTS', KEYS[1]) == 1 and 'kept' or 'missing'}
while #names > tonumber(ARGV[4]) do answer[#answer + 1] = table.remove(names, 1) end
redis.call('SET', KEYS[5], table.concat(names, ' '), 'PX', ARGV[3])
return answer
"""


@dataclass(frozen=True, slots=True)
class VariantKeys:
    """Keys around the embedding of an image.

    Args:
        key: Cache key of the image, with or without a variant.
    """

    key: str

    @property
    def all_deleted(self) -> str:
        """Key of the tombstone of the image with all its variants."""
        return f"edgesam:deleted-all:{{{plain_key(self.key)}}}"

    @property
    def index(self) -> str:
        """Key of the names of the variants that Redis holds."""
        return f"edgesam:variants:{{{plain_key(self.key)}}}"

    @property
    def tombstone(self) -> str:
        """Key of the tombstone of this key alone."""
        return tombstone_key(self.key)

    @property
    def accepted(self) -> str:
        """Key of the tombstone `all_deleted` after which this variant was uploaded anew."""
        return f"edgesam:newer:{{{plain_key(self.key)}}}{self.name}"

    @property
    def name(self) -> str:
        """Name of the variant in the index, such as `~levels=full`; "" for the image itself."""
        return self.key.partition("}")[2]


def tombstone_key(key: str) -> str:
    """Return the key of a value's tombstone, in the same slot of a cluster."""
    if is_variant_key(key):
        return f"edgesam:deleted:{{{plain_key(key)}}}{VariantKeys(key).name}"
    return f"edgesam:deleted:{{{key}}}"


async def variant_tombstone(client: RedisClient, breaker: CircuitBreaker, key: str, *, index_ttl_ms: int) -> str:
    """Return the tombstones of a variant and of its image, as far as the variant is not newer; "" for none.

    Args:
        client: Redis client.
        breaker: Circuit breaker of this Redis.
        key: Cache key of the variant.
        index_ttl_ms: Time to live of the index of variants, which is renewed, milliseconds.

    Raises:
        CacheUnavailable: Redis did not answer in time, or refused.
    """
    keys = VariantKeys(key)
    of = (4, keys.tombstone, keys.all_deleted, keys.accepted, keys.index)
    found = await client.call(breaker, "EVAL", _TOMBSTONE, *of, index_ttl_ms)
    return found.decode(errors="replace") if isinstance(found, bytes) else ""


async def settle_variant(client: RedisClient, breaker: CircuitBreaker, key: str, known: str, *, ttl_ms: int) -> Any:
    """Keep a variant that was just stored, or remove it if it was deleted meanwhile.

    Args:
        client: Redis client.
        breaker: Circuit breaker of this Redis.
        key: Cache key of the variant.
        known: Tombstones that may be there, from `variant_tombstone`; "" for none.
        ttl_ms: Time to live of a variant, milliseconds.

    Returns:
        Answer of `RedisCache`'s script: kept, missing or refused, as bytes.

    Raises:
        CacheUnavailable: Redis did not answer in time, or refused.
    """
    keys = VariantKeys(key)
    of = (5, key, keys.tombstone, keys.all_deleted, keys.accepted, keys.index)
    answer = await client.call(breaker, "EVAL", _SETTLE, *of, known, keys.name, 2 * ttl_ms, MAX_VARIANTS)
    outcome, *evicted = answer if isinstance(answer, list) and answer else [answer]
    if surplus := _keys_of(key, evicted):
        await client.call(breaker, "UNLINK", *surplus)
    return outcome


async def delete_variants(client: RedisClient, breaker: CircuitBreaker, key: str) -> bool:
    """Remove all variants of an image that the index names, and the index. Return whether there was any.

    The tombstone of the image with its variants has to be set before. So a user without the right to read the index
    leaves bytes that are never served.

    Args:
        client: Redis client.
        breaker: Circuit breaker of this Redis.
        key: Cache key of the image itself.

    Raises:
        CacheUnavailable: Redis did not confirm in time, or refused to delete. It may still have variants.
    """
    index = VariantKeys(key).index
    try:
        names = await client.call(breaker, "GET", index)
    except CacheUnavailable as error:
        if not isinstance(error.__cause__, ResponseError):
            raise
        return False
    variants = _keys_of(key, names.split() if isinstance(names, bytes) else [])
    if not variants:
        return False
    return bool(await client.call(breaker, "UNLINK", *variants)) | bool(await client.call(breaker, "UNLINK", index))


def _keys_of(key: str, names: list[bytes]) -> list[str]:
    """Return the keys of variants. Names that are none are left out: other users may write to the index."""
    texts = [name.decode("ascii", errors="replace") for name in names[: 2 * MAX_VARIANTS]]
    return [variant_key(plain_key(key), text) for text in texts if text and _VARIANT.fullmatch(text)]
