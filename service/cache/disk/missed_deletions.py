"""Deletions that happened while this replica was off, or received no messages: no file from before is answered.

Every file is compared with the records in Redis before it is answered, and all files are compared now and then, so that
deleted ones do not stay on the disk. If that was last done longer ago than Redis keeps records, all files are removed.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import time
from typing import Final

from service.cache.disk.files import opened, read_bytes, write_file
from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.names import file_name, files_of
from service.cache.disk.threads import DiskBusy
from service.cache.disk.tier import DiskTier
from service.cache.redis.deletion_records import RECORD_S, DeletionRecords
from service.cache.redis.deletions import is_older
from service.errors import CacheUnavailable

_log = logging.getLogger(__name__)

# Name of the file that says when all files were last compared, in milliseconds since 1970.
CHECKED_NAME: Final = "checked-at"
_MAX_ABSENCE_MS: Final = int((RECORD_S - 86400.0) * 1000.0)
_CHECK_EVERY_S: Final = 86400.0
_ANNOUNCE_EVERY_S: Final = 60.0
_AT_ONCE: Final = 64
_PAUSE_S: Final = 0.02  # between groups, so that the check does not slow requests down
_MAX_KNOWN: Final = 65_536


class MissedDeletions:
    """Compares the files of the disk tier with the records of deletions.

    Without Redis only the processes that share the folder delete, and they remove the files. Then nothing is compared.

    Args:
        tier: Disk tier.
        records: Records of deletions; None without Redis.
    """

    def __init__(self, tier: DiskTier, records: DeletionRecords | None) -> None:
        self._tier = tier
        self._records = records
        self._known: OrderedDict[str, None] = OrderedDict()  # names of files that this process wrote or compared
        self._distrusted_ms = 0
        self._is_due, self._is_unannounced = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def read_checked_at(self) -> None:
        """Read when all files were last compared. Blocking, before the start.

        Raises:
            OSError: The folder cannot be read.
        """
        now_ms = _now_ms()
        with opened(self._tier.folder.path / CHECKED_NAME) as found:
            text = b"" if found is None else read_bytes(found[0], 32)
        checked_at_ms = int(text) if text.isdigit() else 0
        if self._records is not None and checked_at_ms < now_ms - _MAX_ABSENCE_MS:
            self._distrusted_ms = now_ms

    def start(self) -> None:
        """Compare all files now and then, in the background."""
        self._is_due.set()
        self._tasks = [asyncio.create_task(self._check_repeatedly(), name="missed deletions of the disk tier")]
        if self._records is not None:
            self._tasks.append(asyncio.create_task(self._announce_repeatedly(), name="announcement of the disk tier"))

    async def aclose(self) -> None:
        """End the comparisons."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def subscribed(self) -> None:
        """Compare all files anew: messages of other replicas may have been missed until now."""
        self._known.clear()
        self._is_due.set()
        self._is_unannounced.set()  # Redis may have lost everything

    def note_written(self, key: str) -> None:
        """Record that this process has just written a file. It receives the deletions from then on."""
        name = file_name(key)
        self._known[name] = None
        self._known.move_to_end(name)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    async def is_deleted(self, key: str, began_at_ms: int, tombstone: str | None = None) -> bool:
        """Return whether a file was deleted. If it was, it is removed.

        While Redis does not answer, a file that this process wrote or compared before counts as not deleted: a replica
        that receives no messages goes on to answer from its memory, too.

        Args:
            key: Cache key of the file.
            began_at_ms: Start of the work that made the file, milliseconds since 1970.
            tombstone: Tombstone of the image in Redis. The deletion may have no record, where Redis had lost the
                announcement of disk tiers. "" for none, None if Redis was silent.

        Raises:
            CacheUnavailable: Redis does not answer, and this process does not know.
        """
        if self._records is None:
            return False
        name = file_name(key)
        is_deleted = began_at_ms <= self._distrusted_ms
        if tombstone and not is_older(tombstone, time() - began_at_ms / 1000.0):
            is_deleted = True
        if not is_deleted:
            try:
                (until_ms,) = await self._records.deleted_until_ms([files_of(name)])
                is_deleted = began_at_ms <= until_ms
            except CacheUnavailable:
                if name in self._known:
                    return False
                raise
        if not is_deleted:
            self.note_written(key)
            return False
        self._known.pop(name, None)
        await self._tier.remove(key)
        return True

    async def check_all(self) -> None:
        """Remove all files that were deleted.

        Raises:
            CacheUnavailable: Redis did not answer.
            DiskBusy, OSError, TimeoutError: The disk failed.
        """
        folder, started_at_ms = self._tier.folder, _now_ms()
        if not await self._tier.scan():
            raise DiskBusy("The folder could not be listed.")
        names = folder.names()
        if self._distrusted_ms and names:
            _log.warning("The disk cache was last in use more than 30 days ago, so its files are removed")
        for start in range(0, len(names) if self._records is not None else 0, _AT_ONCE):
            group = names[start : start + _AT_ONCE]
            deleted = await self._deleted(group)
            if deleted:
                await self._tier.maintain(partial(_remove_all, folder, deleted))
            await asyncio.sleep(_PAUSE_S)
        self._distrusted_ms = 0
        text = str(started_at_ms).encode()
        await self._tier.maintain(lambda: write_file(folder.path / CHECKED_NAME, (text,), stamp=started_at_ms * 10**6))

    async def _deleted(self, names: list[str]) -> list[str]:
        """Return the names of files that were deleted. Only files that may be are opened."""
        assert self._records is not None
        recorded = await self._records.deleted_until_ms([files_of(name) for name in names])
        until_ms = {name: max(each, self._distrusted_ms) for name, each in zip(names, recorded, strict=True)}
        doubtful = [name for name, until in until_ms.items() if until]
        folder = self._tier.folder
        begun = await self._tier.maintain(lambda: [folder.begun_at_ms(name) for name in doubtful]) if doubtful else []
        return [name for name, at in zip(doubtful, begun, strict=True) if at is not None and at <= until_ms[name]]

    async def _check_repeatedly(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._is_due.wait()
            self._is_due.clear()
            try:
                await self.check_all()
            except (CacheUnavailable, DiskBusy, OSError, TimeoutError):
                self._is_due.set()
                await asyncio.sleep(_ANNOUNCE_EVERY_S)

    async def _announce_repeatedly(self) -> None:
        assert self._records is not None
        while True:
            self._is_unannounced.clear()
            with suppress(CacheUnavailable):
                await self._records.announce()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCE_EVERY_S):
                    await self._is_unannounced.wait()


def _remove_all(folder: EmbeddingFolder, names: Sequence[str]) -> None:
    for name in names:
        folder.remove(name)


def _now_ms() -> int:
    return int(time() * 1000.0)
