"""An image is deleted with all its variants: in Redis, and for replicas that are about to store one."""

import asyncio

import pytest
from support.redis_server import RedisCluster

from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.deletions import Deletions
from service.cache.redis.variants import MAX_VARIANTS, VariantKeys, tombstone_key
from service.sam.embedding import embedding_key


def key_of(variant="", number=0):
    return embedding_key(f"{number:064x}{variant}", "model", "float16")


@pytest.fixture
def open_store(open_client, open_cache, metrics):
    """A function that opens a replica's deletions, and a function that stores a value as an upload does."""

    def open_(url):
        deletions = Deletions(open_client(url), CircuitBreaker(metrics=metrics), tombstone_ttl_s=1000.0)
        cache = open_cache(url, ttl_s=1000.0)

        async def put(key, known=None):
            known = await deletions.tombstone(key) if known is None else known
            value = memoryview(b"value")
            return await cache.put_unless_deleted(key, value, tombstone_key=tombstone_key(key), known=known)

        return deletions, put

    return open_


@pytest.fixture
def store(open_store, redis_server):
    redis_server.ask("FLUSHALL")
    return open_store(redis_server.url)


def present(server, *keys):
    return [key for key in keys if server.ask("EXISTS", key)]


VARIANTS = [key_of(rest) for rest in ("~levels=full", "~bands=4,3,2", "~levels=minmax~bands=1,2,3~region=0,0,640,480")]


async def test_the_deletion_of_an_image_removes_its_variants_and_no_others(store, redis_server):
    deletions, put = store
    other = key_of("~levels=full", number=1)
    for key in (key_of(), *VARIANTS, other):
        assert await put(key)

    assert await deletions.delete(key_of())

    assert present(redis_server, key_of(), *VARIANTS, other) == [other]
    assert not await deletions.delete(key_of())


async def test_variants_are_deleted_when_the_image_itself_was_never_stored(store, redis_server):
    deletions, put = store
    await put(VARIANTS[0])

    assert await deletions.delete(key_of())
    assert present(redis_server, *VARIANTS) == []


async def test_the_deletion_of_a_variant_leaves_the_image_and_other_variants(store, redis_server):
    deletions, put = store
    for key in (key_of(), *VARIANTS):
        await put(key)

    assert await deletions.delete(VARIANTS[1])

    assert present(redis_server, key_of(), *VARIANTS) == [key_of(), VARIANTS[0], VARIANTS[2]]
    assert not await put(VARIANTS[1], known="")
    assert await put(VARIANTS[1])


async def test_an_upload_of_a_variant_that_began_before_the_deletion_is_refused(store, redis_server):
    deletions, put = store
    began_before = await deletions.tombstone(VARIANTS[0])

    await deletions.delete(key_of())

    assert not await put(VARIANTS[0], known=began_before)
    assert present(redis_server, *VARIANTS) == []


async def test_an_upload_after_the_deletion_is_kept_and_accepts_no_other_variant(store, redis_server):
    deletions, put = store
    await deletions.delete(key_of())

    assert await put(VARIANTS[0])

    assert await deletions.tombstone(VARIANTS[0]) == ""
    assert await deletions.tombstone(VARIANTS[1])
    assert not await put(VARIANTS[1], known="")
    assert await put(key_of())  # removes the tombstone of the image itself alone
    assert not await put(VARIANTS[1], known="")
    assert await put(VARIANTS[0], known="")
    await deletions.delete(key_of())
    assert not await put(VARIANTS[0], known="")
    assert present(redis_server, key_of(), *VARIANTS) == []


async def test_a_variant_that_a_deletion_did_not_find_is_removed_when_it_is_read(store, redis_server):
    deletions, put = store
    await put(VARIANTS[0])
    redis_server.ask("UNLINK", VariantKeys(key_of()).index)  # as if Redis had evicted the index

    await deletions.delete(key_of())

    assert present(redis_server, VARIANTS[0]) == [VARIANTS[0]]
    assert await deletions.remove_deleted_variant(VARIANTS[0])
    assert present(redis_server, VARIANTS[0]) == []
    await put(VARIANTS[0])
    assert not await deletions.remove_deleted_variant(VARIANTS[0])


async def test_a_variant_stored_during_the_deletion_of_its_image_does_not_stay(store, redis_server):
    deletions, put = store
    images = range(40)
    known = {number: await deletions.tombstone(key_of("~levels=full", number)) for number in images}

    await asyncio.gather(
        *(
            work
            for number in images
            for work in (
                put(key_of("~levels=full", number), known=known[number]),
                deletions.delete(key_of(number=number)),
                put(key_of("~levels=full", number), known=known[number]),
            )
        )
    )

    assert present(redis_server, *(key_of("~levels=full", number) for number in images)) == []


async def test_an_image_has_a_bounded_number_of_variants(store, redis_server):
    _, put = store
    keys = [key_of(f"~bands={number},1,1") for number in range(1, MAX_VARIANTS + 4)]

    for key in keys:
        await put(key)
    await put(keys[-1])

    assert present(redis_server, *keys) == keys[3:]
    assert len(redis_server.ask("GET", VariantKeys(keys[0]).index).split()) == MAX_VARIANTS


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"~levels=full}x edgesam:b ~bands=1,2,3:mask:a", b"x" * 100_000])
async def test_foreign_text_in_the_index_deletes_nothing_else(store, redis_server, content):
    deletions, put = store
    await put(key_of(number=1))
    redis_server.ask("SET", "edgesam:b", "value")
    redis_server.ask("SET", VariantKeys(key_of()).index, content)

    await deletions.delete(key_of())

    assert present(redis_server, key_of(number=1), "edgesam:b") == [key_of(number=1), "edgesam:b"]


async def test_everything_around_a_variant_expires(store, redis_server):
    deletions, put = store
    await deletions.delete(key_of())
    await put(VARIANTS[0])

    for key in redis_server.ask("KEYS", "edgesam:*"):
        assert 0 < redis_server.ask("PTTL", key) <= 2_000_000


@pytest.mark.slow
async def test_variants_are_deleted_in_a_cluster(open_store):
    with RedisCluster() as cluster:
        deletions, put = open_store(cluster.url)
        for number in range(6):  # on every master
            await put(key_of(number=number))
            for variant in ("~levels=full", "~bands=4,3,2"):
                assert await put(key_of(variant, number))

            assert await deletions.delete(key_of(number=number))

            assert not await deletions.delete(key_of("~levels=full", number))
            assert not await put(key_of("~levels=full", number), known="")
