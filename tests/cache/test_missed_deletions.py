"""Files on disk whose image was deleted while the replica was off, or Redis silent, are not answered."""

import asyncio
import threading
from time import time

import pytest
from support.redis_server import eventually

from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.missed_deletions import CHECKED_NAME, MissedDeletions
from service.cache.disk.names import file_name
from service.cache.disk.tier import DiskTier
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.deletion_records import ANNOUNCED_KEY, CLOCK_MARGIN_MS, DeletionRecords
from service.errors import CacheUnavailable
from service.sam.embedding import embedding_key, image_hash

DAY_MS = 86_400_000


def key_of(name, variant="", model="0123456789abcdef"):
    return embedding_key(image_hash(name.encode()) + variant, model, "float16")


def now_ms():
    return int(time() * 1000.0)


@pytest.fixture
async def tier(tmp_path, metrics):
    folder = EmbeddingFolder(tmp_path / "embeddings", 64 << 20)
    folder.create()
    tier = DiskTier(folder, metrics)
    yield tier
    await tier.aclose()


@pytest.fixture
async def records(open_client, redis_server, metrics):
    records = DeletionRecords(open_client(redis_server.url), CircuitBreaker(metrics=metrics))
    await records.announce()
    yield records
    redis_server.ask("FLUSHALL")


def opened(tier, records):
    missed = MissedDeletions(tier, records)
    missed.read_checked_at()
    return missed


async def used_before(tier, records):
    """Let the folder be one that was in use until now."""
    await opened(tier, records).check_all()


async def test_a_file_from_before_a_recorded_deletion_is_not_answered_and_removed(tier, records):
    await used_before(tier, records)
    began_at_ms = now_ms() - DAY_MS
    await tier.write(key_of("a"), lambda: b"value", began_at_ms)
    await records.record(key_of("a", model="fedcba9876543210"))  # the record is of all models

    assert await opened(tier, records).is_deleted(key_of("a"), began_at_ms) is True

    assert tier.folder.read(key_of("a")) is None


@pytest.mark.parametrize(
    ("deleted", "file", "is_deleted"),
    [
        (key_of("a"), key_of("a", "~levels=full"), True),
        (key_of("a", "~levels=full"), key_of("a", "~levels=full"), True),
        (key_of("a", "~levels=full"), key_of("a"), False),
        (key_of("a"), key_of("b"), False),
    ],
)
async def test_the_record_of_an_image_is_of_all_its_variants(tier, records, deleted, file, is_deleted):
    await used_before(tier, records)
    await records.record(deleted)

    assert await opened(tier, records).is_deleted(file, now_ms() - DAY_MS) is is_deleted


async def test_a_file_from_after_a_recorded_deletion_is_answered(tier, records):
    await used_before(tier, records)
    await records.record(key_of("a"))

    assert await opened(tier, records).is_deleted(key_of("a"), now_ms() + 2 * CLOCK_MARGIN_MS) is False


async def test_without_any_disk_tier_no_deletion_is_recorded(records, redis_server):
    redis_server.ask("UNLINK", ANNOUNCED_KEY)

    await records.record(key_of("a"))

    assert redis_server.ask("KEYS", "edgesam:deleted-files:*") == []


async def test_a_check_of_all_files_removes_those_that_were_deleted(tier, records):
    await used_before(tier, records)
    for name in "ab":
        await tier.write(key_of(name), lambda: b"value", now_ms() - DAY_MS)
    await records.record(key_of("a"))

    await opened(tier, records).check_all()

    assert tier.folder.names() == [file_name(key_of("b"))]


@pytest.mark.parametrize(("days", "is_kept"), [(29, True), (31, False)])
async def test_files_of_a_replica_that_was_off_for_longer_than_records_live_are_removed(tier, records, days, is_kept):
    began_at_ms = now_ms() - 40 * DAY_MS
    await tier.write(key_of("a"), lambda: b"value", began_at_ms)
    (tier.folder.path / CHECKED_NAME).write_text(str(now_ms() - days * DAY_MS))
    missed = opened(tier, records)

    await missed.check_all()

    assert (tier.folder.read(key_of("a")) is not None) is is_kept


async def test_files_of_a_replica_that_was_off_for_too_long_are_not_answered_before_they_are_removed(tier, records):
    began_at_ms = now_ms() - DAY_MS
    await tier.write(key_of("a"), lambda: b"value", began_at_ms)

    assert await opened(tier, records).is_deleted(key_of("a"), began_at_ms) is True


async def test_without_redis_files_stay_for_any_time(tier):
    await tier.write(key_of("a"), lambda: b"value", 1)
    missed = opened(tier, None)

    assert await missed.is_deleted(key_of("a"), 1) is False
    await missed.check_all()

    assert tier.folder.read(key_of("a")) is not None
    assert int((tier.folder.path / CHECKED_NAME).read_text()) == pytest.approx(now_ms(), abs=60_000)


async def test_while_redis_is_silent_only_files_that_were_compared_are_answered(
    tier, records, open_client, metrics, unused_port
):
    await used_before(tier, records)
    silent = DeletionRecords(open_client(f"redis://127.0.0.1:{unused_port}"), CircuitBreaker(metrics=metrics))
    missed = opened(tier, silent)
    missed.note_written(key_of("a"))

    assert await missed.is_deleted(key_of("a"), now_ms()) is False
    with pytest.raises(CacheUnavailable):
        await missed.is_deleted(key_of("b"), now_ms())
    missed.subscribed()  # messages may have been missed
    with pytest.raises(CacheUnavailable):
        await missed.is_deleted(key_of("a"), now_ms())


@pytest.fixture
def unused_port():
    from support.redis_server import free_port

    return free_port()


async def test_a_record_of_another_user_of_redis_is_no_deletion(tier, records, redis_server):
    await used_before(tier, records)
    await records.record(key_of("a"))
    (name,) = redis_server.ask("KEYS", "edgesam:deleted-files:*")
    redis_server.ask("SET", name, "9" * 30)

    assert await opened(tier, records).is_deleted(key_of("a"), now_ms() - DAY_MS) is False


async def test_disk_tiers_are_announced_anew_after_an_outage_of_redis(tier, records, redis_server):
    missed = opened(tier, records)
    missed.start()
    await eventually((tier.folder.path / CHECKED_NAME).exists)
    redis_server.ask("FLUSHALL")

    missed.subscribed()

    await eventually(lambda: redis_server.ask("EXISTS", ANNOUNCED_KEY) == 1)
    await missed.aclose()


async def test_a_look_up_of_a_deleted_file_does_not_wait_for_the_upkeep(tier, records):
    await tier.write(key_of("a"), lambda: b"value", now_ms() - DAY_MS)
    missed, is_over = opened(tier, records), threading.Event()
    upkeep = asyncio.create_task(tier.maintain(is_over.wait))  # as a scan of a slow folder takes long
    await asyncio.sleep(0)

    try:
        async with asyncio.timeout(30.0):
            assert await missed.is_deleted(key_of("a"), now_ms() - DAY_MS) is True
        assert tier.folder.read(key_of("a")) is None
    finally:
        is_over.set()
        await upkeep
