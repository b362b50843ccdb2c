"""The disk tier: embeddings of all models in one folder. A disk that fails costs look-ups, and never a request."""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import Final, Literal, TypeVar

from service.cache.disk.file_format import CorruptFile, Header
from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.names import ImageFiles, file_name
from service.cache.disk.threads import DiskBusy, DiskThreads, Pause
from service.errors import CacheUnavailable
from service.sam.embedding_bytes import CorruptValue
from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Literal["read", "write", "delete", "scan"]

TIER: Final = "disk"
# A slower disk is no use: encoding an image takes less time. Larger values take longer on a network volume.
READ_TIMEOUT_S: Final = 1.0
# A write goes on behind the answer after a shorter wait. One that takes this long hangs.
_WRITE_TIMEOUT_S: Final = 10.0
_DELETE_TIMEOUT_S: Final = 5.0
_SCAN_TIMEOUT_S: Final = 600.0
_SCAN_EVERY_S: Final = 300.0  # what other processes write and evict is counted from then on
_CLOSE_TIMEOUT_S: Final = 2.0
MAX_DELETIONS: Final = 65_536


class DiskTier:
    """A folder of embeddings with its threads, its metrics, and the deletions that are not done yet.

    Args:
        folder: Folder, which exists.
        metrics: Metrics of the process. Look-ups are counted under the tier "disk".
    """

    def __init__(self, folder: EmbeddingFolder, metrics: Metrics) -> None:
        self.folder = folder
        self._readers = DiskThreads("disk-read", 2, max_calls=32)
        self._writers = DiskThreads("disk-write", 2, max_calls=8)  # each holds a value of 2 to 16 MiB
        self._removals = DiskThreads("disk-remove", 1, max_calls=64)  # no deletion is refused because many files come
        self._upkeep = DiskThreads("disk-upkeep", 1, max_calls=4)
        self._reads, self._writes = Pause(), Pause()
        self._deleted: OrderedDict[ImageFiles, int] = OrderedDict()  # time of each, milliseconds since 1970
        self._has_deletions = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._logged: set[Operation] = set()
        self._lookups = metrics.cache_lookups_total
        self._errors = metrics.disk_cache_errors_total
        metrics.watch_cache(TIER, lambda: folder.held_bytes)
        metrics.watch_disk(lambda: folder.count, lambda: self._reads.is_on or self._writes.is_on)

    def start(self) -> None:
        """Begin to scan the folder now and then, and to remove the files of received deletions."""
        _log.info("embeddings are kept on disk", extra={"folder": str(self.folder.path)})
        self._tasks = [
            asyncio.create_task(self._scan_repeatedly(), name="scan of the disk tier"),
            asyncio.create_task(self._remove_repeatedly(), name="deletions of the disk tier"),
        ]

    async def aclose(self) -> None:
        """Finish the writes in progress, within a bound, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pools = (self._writers, self._readers, self._removals, self._upkeep)
        await asyncio.gather(*(threads.aclose(_CLOSE_TIMEOUT_S) for threads in pools))

    async def read(self, key: str, convert: Callable[[bytes], T]) -> tuple[T, int] | None:
        """Return a value, and when the work that made it began, milliseconds since 1970. None if there is none.

        A file that is not valid is removed. That and a disk that fails are misses, too, and count as outcome `error`.

        Args:
            key: Cache key of the value.
            convert: Function from the bytes to the value. It runs in a thread, and raises CorruptValue.
        """

        def work() -> tuple[T, Header] | None:
            found = self.folder.read(key)
            return None if found is None else (convert(found[1]), found[0])

        found = await self._read(key, work, is_lookup=True)
        return (
            None if found is None or self._is_deleted(key, found[1].began_at_ms) else (found[0], found[1].began_at_ms)
        )

    async def read_start(self, key: str, nbytes: int) -> tuple[bytes, int] | None:
        """Return the first bytes of a value, and when the work that made it began; None if there is none.

        This is no use of the value and no look-up.

        Args:
            key: Cache key of the value.
            nbytes: Number of bytes.
        """
        found = await self._read(key, lambda: self.folder.read_start(key, nbytes), is_lookup=False)
        return (
            None if found is None or self._is_deleted(key, found[0].began_at_ms) else (found[1], found[0].began_at_ms)
        )

    async def write(self, key: str, encode: Callable[[], bytes], began_at_ms: int, *, replaces: bool = True) -> bool:
        """Store a value, and return whether it is stored.

        Args:
            key: Cache key of the value.
            encode: Function that returns the bytes. It runs in a thread.
            began_at_ms: Start of the work that made the value, milliseconds since 1970.
            replaces: Whether the value is stored in place of one that is there.
        """

        def work() -> bool:
            if not replaces and self.folder.is_stored(key):
                return False
            return self.folder.write(key, encode(), began_at_ms)

        try:
            self._writes.admit()
            is_stored = await self._writers.run(work, _WRITE_TIMEOUT_S)
        except DiskBusy:
            return False
        except (OSError, TimeoutError) as error:
            self._failed("write", error, self._writes)
            return False
        self._succeeded("write", self._writes)
        if self._is_deleted(key, began_at_ms):
            self.drop(key)  # once more: the file may have come after the removal
        return is_stored

    async def mark_used(self, key: str) -> None:
        """Count a use of a value that memory answered, so that the file is not evicted as one of no use."""
        with suppress(DiskBusy, OSError, TimeoutError):
            self._reads.admit()
            await self._readers.run(lambda: self.folder.mark_used(key), READ_TIMEOUT_S)

    def drop(self, key: str) -> None:
        """Answer with the values of a deleted image no more, of all models, and remove them soon.

        Args:
            key: Cache key of the image, of any model, or of a variant of it.
        """
        files = ImageFiles.deleted_by(key)
        self._deleted[files] = _now_ms()
        self._deleted.move_to_end(files)
        if len(self._deleted) > MAX_DELETIONS:
            self._deleted.popitem(last=False)
        self._has_deletions.set()

    async def delete(self, key: str) -> bool:
        """Remove the values of an image, of all models, and return whether there were any.

        Args:
            key: Cache key of the image, of any model, or of a variant of it.

        Raises:
            CacheUnavailable: The disk may still have them. They are not answered by this process, and it tries again.
        """
        self.drop(key)
        try:
            return await self._remove(ImageFiles.deleted_by(key))
        except (DiskBusy, OSError, TimeoutError) as error:
            raise CacheUnavailable(
                "The disk cache did not confirm the deletion. Repeat it.", retry_after_s=_DELETE_TIMEOUT_S
            ) from error

    async def remove(self, key: str) -> None:
        """Remove the value of one key that is not answered any more. A disk that fails keeps it."""
        with suppress(DiskBusy, OSError, TimeoutError):
            await self._removals.run(lambda: self.folder.remove(file_name(key)), READ_TIMEOUT_S)

    async def scan(self) -> bool:
        """List the folder, and return whether that succeeded."""
        try:
            await self._upkeep.run(self.folder.scan, _SCAN_TIMEOUT_S)
        except DiskBusy:
            return False
        except (OSError, TimeoutError) as error:
            self._failed("scan", error)
            return False
        self._succeeded("scan")
        return True

    async def maintain(self, function: Callable[[], T]) -> T:
        """Run a function on the folder that no request waits for.

        Raises:
            DiskBusy, OSError, TimeoutError: The disk failed.
        """
        return await self._upkeep.run(function, _SCAN_TIMEOUT_S)

    async def _read(self, key: str, work: Callable[[], T], *, is_lookup: bool) -> T | None:
        outcome = "error"
        try:
            self._reads.admit()
            found = await self._readers.run(work, READ_TIMEOUT_S)
            self._succeeded("read", self._reads)
            outcome = "miss" if found is None else "hit"
        except DiskBusy:
            return None
        except (CorruptFile, CorruptValue):
            self._errors.labels("read").inc()
            await self.remove(key)
            return None
        except (OSError, TimeoutError) as error:
            self._failed("read", error, self._reads)
            return None
        finally:
            if is_lookup:
                self._lookups.labels(TIER, outcome).inc()
        return found

    def _is_deleted(self, key: str, began_at_ms: int) -> bool:
        files = ImageFiles.deleted_by(key)
        times = [self._deleted.get(each) for each in (files, files.with_all_variants)]
        return any(at is not None and began_at_ms <= at for at in times)

    async def _remove(self, files: ImageFiles) -> bool:
        at = self._deleted.get(files)
        try:
            removed = await self._removals.run(lambda: self.folder.remove_image(files), _DELETE_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            self._failed("delete", error)
            raise
        self._succeeded("delete")
        if self._deleted.get(files) == at:
            self._deleted.pop(files, None)
        return bool(removed)

    async def _remove_repeatedly(self) -> None:
        while True:
            await self._has_deletions.wait()
            self._has_deletions.clear()
            while self._deleted:
                files = next(iter(self._deleted))
                try:
                    await self._remove(files)
                except (DiskBusy, OSError, TimeoutError):
                    if files in self._deleted:
                        self._deleted.move_to_end(files)
                    await asyncio.sleep(_DELETE_TIMEOUT_S)

    async def _scan_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(_SCAN_EVERY_S * random.uniform(0.9, 1.1))  # noqa: S311 - spreads scans, hides nothing
            await self.scan()

    def _failed(self, operation: Operation, error: Exception, pause: Pause | None = None) -> None:
        self._errors.labels(operation).inc()
        if isinstance(error, TimeoutError):  # a disk that hangs does so for all
            self._reads.failed()
            self._writes.failed()
        elif pause is not None:
            pause.failed()
        if operation not in self._logged:
            self._logged.add(operation)
            _log.warning("The disk cache fails to %s: %s", operation, error)

    def _succeeded(self, operation: Operation, pause: Pause | None = None) -> None:
        if pause is not None:
            pause.succeeded()
        if operation in self._logged:
            self._logged.discard(operation)
            _log.info("The disk cache can %s again", operation)


def _now_ms() -> int:
    return int(time() * 1000.0)
