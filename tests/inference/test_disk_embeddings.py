"""Embeddings that only the disk has: answered, stored in Redis again, and not answered after a deletion."""

from time import time

import numpy as np
import pytest
from support.redis_server import eventually
from tools.faults.proxy import Proxy

from service.cache.codecs import EmbeddingCodec
from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.missed_deletions import MissedDeletions
from service.cache.disk.names import file_name
from service.cache.disk.tier import DiskTier
from service.cache.memory import MemoryCache
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.deletion_records import DeletionRecords
from service.cache.redis.deletions import Deletions, tombstone_key
from service.cache.redis.tier import RedisCache
from service.errors import CacheUnavailable, EmbeddingNotFound
from service.inference.disk_embeddings import DiskEmbeddings
from service.inference.image_states import ImageStates
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.executors import TimedExecutor
from service.sam.embedding import ImageEmbedding, deletion_group, embedding_key, image_hash


@pytest.fixture
def way(redis_server):
    """The proxy between this replica and Redis."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


class Replica:
    """The image states of one replica over a real Redis and a folder."""

    def __init__(self, runtime, metrics, port, folder):
        self.client = connect(f"redis://127.0.0.1:{port}", read_timeout_s=5.0)
        breaker = CircuitBreaker(failures=1000, metrics=metrics)
        self.executor, self.background = TimedExecutor("test", 1), BackgroundWork(8, metrics)
        self.recent_deletions = RecentDeletions(1000.0)
        self.deletions = Deletions(self.client, breaker, tombstone_ttl_s=1000.0)
        self.records = DeletionRecords(self.client, breaker)
        self.tier = DiskTier(folder, metrics)
        self.missed = MissedDeletions(self.tier, self.records)
        self.model = runtime.fingerprint
        codec = EmbeddingCodec(self.model)
        self.states = ImageStates(
            MemoryCache(64 << 20, 1000.0, metrics, group=deletion_group),
            RedisCache(
                self.client,
                codec,
                ttl_s=1000.0,
                breaker=breaker,
                metrics=metrics,
                executor=self.executor.executor,
            ),
            deletions=self.deletions,
            recent_deletions=self.recent_deletions,
            runtime=runtime,
            executor=self.executor,
            background=self.background,
            renew_every_s=1000.0,
            disk=DiskEmbeddings(
                self.tier,
                self.missed,
                codec,
                recent_deletions=self.recent_deletions,
                runtime=runtime,
                background=self.background,
            ),
        )

    def key_of(self, name):
        return embedding_key(image_hash(name.encode()), self.model, "float16")

    async def upload(self, name, context):
        key = self.key_of(name)
        await self.states.add(key, embedding(), context, tombstone=await self.states.tombstone(key))
        return key

    async def write(self, key, began_at_ms):
        """Write a file as a replica did at some time."""
        assert await self.tier.write(key, lambda: EmbeddingCodec(self.model).encode(embedding()), began_at_ms)

    async def aclose(self):
        await self.background.aclose(5.0)
        await self.tier.aclose()
        await self.client.aclose()
        self.executor.close()


@pytest.fixture
async def start(runtime, metrics, way, tmp_path):
    """A function that starts a replica on one folder."""
    replicas = []

    def start_():
        folder = EmbeddingFolder(tmp_path / "embeddings", 64 << 20)
        folder.create()
        replicas.append(Replica(runtime, metrics, way.port, folder))
        return replicas[-1]

    yield start_
    for replica in replicas:
        await replica.aclose()


def embedding():
    return ImageEmbedding(np.random.default_rng(0).normal(0, 1, (4096, 256)).astype(np.float16), (30, 40))


async def tier_of(replica, key, context):
    found = await replica.states.look_up(key, context)
    return None if found is None else found[1]


async def test_an_embedding_that_redis_lost_is_stored_there_again(start, redis_server, new_context):
    key = await start().upload("lost", new_context())
    redis_server.ask("UNLINK", key)
    later, other = start(), start()

    assert await tier_of(later, key, new_context()) == "disk"

    assert redis_server.ask("EXISTS", key) == 1
    assert await tier_of(later, key, new_context()) == "memory"
    assert await tier_of(other, key, new_context()) == "redis"


async def test_the_embedding_of_the_disk_is_the_one_that_was_uploaded(start, redis_server, new_context):
    key = await start().upload("same", new_context())
    redis_server.ask("UNLINK", key)

    found = await start().states.embedding(key, new_context().timings)

    assert np.array_equal(found.tokens, embedding().tokens)
    assert found.original_size == (30, 40)


async def test_an_image_on_disk_is_contained(start, redis_server, new_context):
    key = await start().upload("contained", new_context())
    redis_server.ask("UNLINK", key)

    tier, info = await start().states.contains(key)

    assert (tier, info.size) == ("disk", (30, 40))


async def test_a_recorded_deletion_holds_for_all_look_ups(start, redis_server, new_context):
    replica = start()
    key = await replica.upload("deleted", new_context())
    redis_server.ask("UNLINK", key)
    await replica.records.announce()
    await replica.records.record(key)
    await replica.missed.check_all()
    later = start()
    await later.write(key, 1)

    assert await later.states.contains(key) is None
    await later.write(key, 1)
    with pytest.raises(EmbeddingNotFound):
        await later.states.find(key, new_context())
    assert redis_server.ask("EXISTS", key) == 0


async def test_a_deletion_that_redis_has_no_record_of_holds_by_its_tombstone(start, redis_server, new_context):
    key = await start().upload("unrecorded", new_context())
    later = start()
    await later.missed.check_all()
    await later.write(key, int((time() - 60.0) * 1000.0))
    await later.deletions.delete(key)

    assert await later.states.contains(key) is None
    await later.write(key, int((time() - 60.0) * 1000.0))
    with pytest.raises(EmbeddingNotFound):
        await later.states.find(key, new_context())
    assert redis_server.ask("EXISTS", tombstone_key(key)) == 1
    assert later.tier.folder.read(key) is None


async def test_an_upload_after_a_deletion_that_redis_never_took_is_found_on_disk(start, redis_server, new_context):
    replica = start()
    await replica.missed.check_all()
    key = replica.key_of("newer")
    await replica.records.announce()
    await replica.records.record(key)
    await replica.deletions.delete(key)
    in_an_hour_ms = int((time() + 3600.0) * 1000.0)
    await replica.write(key, in_an_hour_ms)

    assert await tier_of(replica, key, new_context()) == "disk"

    assert redis_server.ask("EXISTS", key) == 1
    assert redis_server.ask("EXISTS", tombstone_key(key)) == 0


async def test_without_an_answer_of_redis_an_image_of_this_process_is_found(start, way, new_context):
    replica = start()
    key = await replica.upload("silent", new_context())
    replica.states._memory.drop(key)
    way.refuse()

    assert await tier_of(replica, key, new_context()) == "disk"
    assert (await replica.states.contains(key))[0] == "memory"


async def test_without_an_answer_of_redis_an_image_of_an_earlier_process_is_unknown(start, way, new_context):
    key = await start().upload("unknown", new_context())
    later = start()
    way.refuse()

    with pytest.raises(CacheUnavailable):
        await later.states.find(key, new_context())
    with pytest.raises(CacheUnavailable):
        await later.states.contains(key)


async def test_an_embedding_from_redis_is_written_to_the_disk_behind_the_answer(start, new_context, tmp_path):
    first = start()
    key = await first.upload("copied", new_context())
    assert await first.tier.delete(key) is True
    second = start()

    await second.states.find(key, new_context())

    await eventually(lambda: second.tier.folder.has(key))


async def test_an_upload_that_was_deleted_meanwhile_leaves_no_file(start, new_context):
    replica = start()
    context = new_context()
    key = replica.key_of("overtaken")
    replica.recent_deletions.add(key)

    await replica.states.add(key, embedding(), context, tombstone="")

    assert replica.tier.folder.read(key) is None


async def test_uses_in_memory_keep_a_file_from_being_evicted(start, new_context):
    replica = start()
    keys = [await replica.upload(name, new_context()) for name in ("used", "unused")]

    await replica.states.find(keys[0], new_context())

    await eventually(lambda: replica.tier.folder.names() == [file_name(key) for key in reversed(keys)])
