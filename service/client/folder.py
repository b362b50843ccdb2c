"""A whole folder embedded ahead of a labelling session.

Nothing is written down on the way: the service knows what it has, so the same call goes on where an earlier one
stopped.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service.client.clients import AsyncClient
from service.client.errors import ClientError, Unauthorized, Unreachable
from service.client.values import Embedded

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

# Told (path, what became of it) after each picture.
Notice = Callable[[Path, Embedded | Exception], None]


@dataclass(slots=True)
class FolderResult:
    """What became of the pictures of a folder.

    Args:
        embedded: were sent and embedded now.
        known: were embedded before; only their hashes were sent.
        failed: the others, each with its reason.
        evicted: were embedded when their turn came and are not any more: the service's cache is too small for all.
    """

    embedded: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, Exception]] = field(default_factory=list)
    evicted: list[Path] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every picture can be segmented now."""
        return not self.failed and not self.evicted


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, by their suffix and in the order of their names.

    Names that begin with a dot are left out, and links to folders, which may go in circles.

    Raises:
        OSError: the folder itself cannot be read.
    """
    os.scandir(folder).close()  # os.walk is silent about what it cannot read
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(directory, name)


async def embed_folder(
    client: AsyncClient, paths: Iterable[Path], *, jobs: int, notice: Notice = lambda _path, _outcome: None
) -> FolderResult:
    """Embed pictures, `jobs` at a time, then ask for each whether the service still has it.

    Args:
        client: of the service.
        paths: of the pictures.
        jobs: pictures in progress at the same time, at least 1; each holds its file's bytes in memory.
        notice: told of each picture as it is done.

    Raises:
        Unauthorized, Unreachable: the service, so that there is no use in trying the rest.
    """
    result = FolderResult()
    hashes: dict[Path, str] = {}

    async def embed(path: Path) -> None:
        try:
            outcome: Embedded | Exception = await client.embed(path)
        except (Unauthorized, Unreachable):
            raise
        except (ClientError, OSError) as error:
            outcome = error
        if isinstance(outcome, Embedded):
            hashes[path] = outcome.image_hash
            (result.embedded if outcome.was_uploaded and outcome.cached is None else result.known).append(path)
        else:
            result.failed.append((path, outcome))
        notice(path, outcome)

    async def check(path: Path) -> None:
        if not await client.contains(hashes[path]):
            result.evicted.append(path)

    await _each(paths, embed, jobs)
    await _each(list(hashes), check, jobs)
    return result


async def _each(paths: Iterable[Path], do: Callable[[Path], Awaitable[None]], jobs: int) -> None:
    """Do it for each, `jobs` at a time; the first error ends it all."""
    waiting = iter(paths)

    async def work() -> None:
        for path in waiting:
            await do(path)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(jobs):
                workers.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
