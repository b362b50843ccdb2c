"""Embeds all images of a folder, for example before a labelling session.

The progress is not stored. The service knows which images it has, so a second call uploads only what is missing.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from .async_client import AsyncClient
from .errors import ClientError, Unauthorized, Unreachable
from .values import Embedded, Reading

T = TypeVar("T")

_USUAL: Final = Reading()

# Called after each image with its path and the result or the error.
OnResult = Callable[[Path, Embedded | Exception], None]


class FileTooLargeError(ValueError):
    """The file is larger than the service takes."""


@dataclass(slots=True)
class FolderResult:
    """Results for the images of a folder.

    Args:
        embedded: Images that were uploaded and embedded.
        known: Images that had been embedded before, so that only their hashes were sent.
        failed: Images that could not be embedded, each with its error.
        evicted: Images that the service evicted again, because its cache is too small for all.
    """

    embedded: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, Exception]] = field(default_factory=list)
    evicted: list[Path] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all images are embedded now."""
        return not self.failed and not self.evicted


async def embed_folder(
    client: AsyncClient,
    paths: Iterable[Path],
    *,
    jobs: int,
    reading: Reading = _USUAL,
    on_result: OnResult = lambda _path, _outcome: None,
) -> FolderResult:
    """Embed images, then check for each one whether the service still has it.

    Args:
        client: Client of the service.
        paths: Paths of the images.
        jobs: Number of concurrent uploads, at least 1. Each holds the bytes of its file in memory.
        reading: How the service reads the samples of the files.
        on_result: Callback after each image.

    Raises:
        Unauthorized: if the service refuses the API key. The remaining images are not tried.
        Unreachable: if the service does not answer. The remaining images are not tried.
        ClientError: if the service does not describe its limits.
    """
    result = FolderResult()
    ids: dict[Path, str] = {}
    max_bytes = (await limits_of(client)).max_image_bytes

    async def embed(path: Path) -> None:
        try:
            check_size(path, max_bytes)
            outcome: Embedded | Exception = await client.embed(path, levels=reading.levels, bands=reading.bands)
        except (Unauthorized, Unreachable):
            raise
        except (ClientError, OSError, FileTooLargeError) as error:
            outcome = error
        if isinstance(outcome, Embedded):
            ids[path] = outcome.image_id
            (result.embedded if outcome.was_uploaded and outcome.cached is None else result.known).append(path)
        else:
            result.failed.append((path, outcome))
        on_result(path, outcome)

    async def check(path: Path) -> None:
        if not await client.contains(ids[path]):
            result.evicted.append(path)

    await each(paths, embed, jobs)
    await each(list(ids), check, jobs)
    return result


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Limits of the service; infinite where it states none.

    Args:
        max_image_bytes: Size of the largest file, in bytes.
        max_prompts: Largest number of prompts of a request.
    """

    max_image_bytes: float
    max_prompts: float


async def limits_of(client: AsyncClient) -> ServiceLimits:
    """Get the limits of the service."""
    limits = (await client.models())[0].document.get("limits", {})
    return ServiceLimits(*(float(limits.get(name, math.inf)) for name in ("max_image_bytes", "max_prompts")))


def check_size(path: Path, max_bytes: float) -> None:
    """Refuse a file that the service would refuse, before it is read into memory.

    Raises:
        FileTooLargeError: if it is larger.
        OSError: if there is no such file.
    """
    if (size := path.stat().st_size) > max_bytes:
        raise FileTooLargeError(f"The file has {size} bytes; the service takes {max_bytes:.0f} at most.")


async def each(items: Iterable[T], do: Callable[[T], Awaitable[None]], jobs: int) -> None:
    """Call `do` for each item, `jobs` at a time. The first error cancels the rest."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(jobs):
                workers.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
