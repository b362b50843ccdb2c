"""A disk that fails, hangs or has damaged files costs look-ups: every wait is bounded, and no value is wrong."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from time import monotonic, time

import pytest
from support.redis_server import eventually

from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.names import file_name
from service.cache.disk.threads import DiskBusy, DiskThreads, Pause
from service.cache.disk.tier import DiskTier
from service.errors import CacheUnavailable
from service.sam.embedding import embedding_key, image_hash

WAIT_S = 60.0


def key_of(name, variant=""):
    return embedding_key(image_hash(name.encode()) + variant, "0123456789abcdef", "float16")


@pytest.fixture
async def open_tier(tmp_path, metrics):
    tiers = []

    def open_(max_bytes=64 << 20):
        folder = EmbeddingFolder(tmp_path / "embeddings", max_bytes)
        folder.create()
        tiers.append(DiskTier(folder, metrics))
        return tiers[-1]

    yield open_
    for tier in tiers:
        await tier.aclose()


@pytest.fixture
def errors(metrics):
    return lambda operation: (
        metrics.registry.get_sample_value("edgesam_disk_cache_errors_total", {"operation": operation}) or 0.0
    )


def path_of(tier, key):
    return tier.folder.path / file_name(key)[:2] / file_name(key)


async def write(tier, key, value=b"value", began_at_ms=1):
    return await tier.write(key, lambda: value, began_at_ms)


async def value_of(tier, key):
    found = await tier.read(key, bytes)
    return None if found is None else found[0]


async def test_look_ups_are_counted(open_tier, lookups):
    tier = open_tier()
    await write(tier, key_of("a"))

    assert await value_of(tier, key_of("a")) == b"value"
    assert await value_of(tier, key_of("b")) is None

    assert [lookups("disk", outcome) for outcome in ("hit", "miss", "error")] == [1, 1, 0]


async def test_bytes_and_files_are_shown(open_tier, metrics):
    tier = open_tier()
    await write(tier, key_of("a"))

    held = metrics.registry.get_sample_value("edgesam_cache_bytes", {"tier": "disk"})
    assert held == path_of(tier, key_of("a")).stat().st_size
    assert metrics.registry.get_sample_value("edgesam_disk_cache_files") == 1


async def test_a_damaged_file_is_a_miss_and_removed(open_tier, lookups, errors):
    tier = open_tier()
    await write(tier, key_of("a"))
    path_of(tier, key_of("a")).write_bytes(b"damaged")

    assert await value_of(tier, key_of("a")) is None

    assert not path_of(tier, key_of("a")).exists()
    assert (lookups("disk", "error"), errors("read")) == (1, 1)


async def test_a_deleted_value_is_removed_when_the_deletion_returns(open_tier):
    tier = open_tier()
    await write(tier, key_of("a", "~levels=full"))

    assert await tier.delete(key_of("a")) is True

    assert not path_of(tier, key_of("a", "~levels=full")).exists()
    assert await tier.delete(key_of("a")) is False


async def test_a_received_deletion_is_answered_at_once_and_carried_out_soon(open_tier):
    tier = open_tier()
    await write(tier, key_of("a"))

    tier.drop(key_of("a"))

    assert await value_of(tier, key_of("a")) is None
    assert path_of(tier, key_of("a")).exists()
    tier.start()
    await eventually(lambda: not path_of(tier, key_of("a")).exists())


async def test_a_value_whose_work_began_before_a_deletion_is_not_answered(open_tier):
    tier = open_tier()
    tier.drop(key_of("a"))

    await write(tier, key_of("a"), b"before", began_at_ms=int(time() * 1000) - 1000)
    before = await value_of(tier, key_of("a"))
    await write(tier, key_of("a"), b"after", began_at_ms=int(time() * 1000) + 1000)

    assert (before, await value_of(tier, key_of("a"))) == (None, b"after")


async def test_a_deletion_does_not_wait_for_values_that_are_written(open_tier):
    tier, is_over = open_tier(), threading.Event()
    await write(tier, key_of("a"))

    def encode():
        is_over.wait(WAIT_S)
        return b"value"

    writes = [asyncio.create_task(tier.write(key_of(str(number)), encode, 1)) for number in range(9)]
    await asyncio.sleep(0)  # as many as may wait for the writing threads
    try:
        assert await tier.delete(key_of("a")) is True
    finally:
        is_over.set()
    assert sorted(await asyncio.gather(*writes)) == [False] + [True] * 8


@pytest.fixture
def lock_folder():
    """A function that makes a folder immutable until the end of the test, for root, too."""
    locked = []

    def lock(path):
        if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
            pytest.skip("needs a file system with immutable folders, and the right to make one")
        locked.append(path)

    yield lock
    for path in locked:
        subprocess.run(["chattr", "-i", path], check=True)


async def test_a_deletion_that_the_disk_does_not_confirm_is_unavailable(open_tier, errors, lock_folder):
    tier = open_tier()
    await write(tier, key_of("a"))
    lock_folder(path_of(tier, key_of("a")).parent)

    with pytest.raises(CacheUnavailable):
        await tier.delete(key_of("a"))

    assert await value_of(tier, key_of("a")) is None
    assert errors("delete") == 1


async def test_a_disk_that_keeps_failing_is_not_asked_for_some_time(open_tier, errors):
    tier = open_tier()
    shutil.rmtree(tier.folder.path)
    tier.folder.path.write_text("a file in place of the folder")

    stored = [await write(tier, key_of("a")) for _ in range(5)]

    assert stored == [False] * 5
    assert errors("write") == 3
    assert await value_of(tier, key_of("a")) is None  # reads are not paused: a full disk still answers


HOLD_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hang():
    """A function after which opening a file hangs, until the end of the test: another process has a lease on it."""
    holders = []

    def hang_(path):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_LEASE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        holders.append(holder)
        assert holder.stdout.readline() == b"held\n"

    yield hang_
    for holder in holders:
        holder.communicate(timeout=WAIT_S)


@pytest.mark.skipif(sys.platform != "linux", reason="leases are of Linux")
async def test_a_disk_that_hangs_is_waited_for_a_few_times_and_then_not_asked(
    open_tier, hang, errors, lookups, monkeypatch
):
    monkeypatch.setattr("service.cache.disk.tier.READ_TIMEOUT_S", 0.1)
    tier = open_tier()
    await write(tier, key_of("a"))
    hang(path_of(tier, key_of("a")))

    values = [await value_of(tier, key_of("a")) for _ in range(20)]

    assert values == [None] * 20
    assert (errors("read"), lookups("disk", "error")) == (3, 20)
    began = monotonic()
    await tier.aclose()
    assert monotonic() - began < WAIT_S / 2  # the threads that hang are not waited for


async def test_a_pause_lets_one_call_through_after_its_time():
    now = [0.0]
    pause = Pause(failures=2, pause_s=10.0, clock=lambda: now[0])
    pause.failed()
    pause.admit()
    pause.failed()

    with pytest.raises(DiskBusy):
        pause.admit()
    now[0] = 10.0
    pause.admit()
    with pytest.raises(DiskBusy):
        pause.admit()
    pause.succeeded()
    pause.admit()


@pytest.fixture
async def threads():
    pool, release = DiskThreads("test", 1, max_calls=2), threading.Event()
    yield pool, release
    release.set()
    await pool.aclose(WAIT_S)


async def test_calls_beyond_the_bound_are_refused(threads):
    pool, release = threads
    calls = [asyncio.create_task(pool.run(release.wait, WAIT_S)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(DiskBusy):
        await pool.run(os.getpid, WAIT_S)

    release.set()
    assert await asyncio.gather(*calls) == [True, True]


async def test_a_call_that_waits_too_long_for_a_thread_is_not_run(threads):
    pool, release = threads
    running = asyncio.create_task(pool.run(release.wait, WAIT_S))
    await asyncio.sleep(0)
    ran = []

    with pytest.raises(TimeoutError):
        await pool.run(lambda: ran.append(1), 0.01)

    release.set()
    await running
    await pool.run(os.getpid, WAIT_S)
    assert ran == []


async def test_a_close_waits_for_a_call_in_progress(threads):
    pool, release = threads
    ended = []

    def work():
        release.wait()
        ended.append(1)

    running = asyncio.create_task(pool.run(work, WAIT_S))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.aclose(WAIT_S))
    await asyncio.sleep(0)
    release.set()
    await closing

    assert ended == [1]
    await running


async def test_a_copy_does_not_replace_a_value_that_another_process_wrote(open_tier):
    tier, other = open_tier(), open_tier()
    await write(other, key_of("a"), b"first")

    assert await tier.write(key_of("a"), lambda: b"second", 1, replaces=False) is False

    assert await value_of(tier, key_of("a")) == b"first"
    assert tier.folder.has(key_of("a"))
