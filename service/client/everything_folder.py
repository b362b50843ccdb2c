"""Everything mode over all images of a folder. The state of the run is stored after each image."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .async_client import AsyncClient
from .errors import ClientError, Unauthorized, Unreachable
from .everything import Everything, EverythingOptions
from .folder import check_size, each, limits_of
from .folder_state import FileVersion, FolderState
from .values import Reading

# Called after each image with its path and the result or the error. None is the result of an earlier run.
OnResult = Callable[[Path, Everything | Exception | None], None]


@dataclass(slots=True)
class EverythingRun:
    """Results of a run.

    Args:
        done: Number of images that were searched.
        known: Number of images whose masks were in the state.
        masks: Number of masks that were found.
        failed: Images that could not be searched, each with its error.
    """

    done: int = 0
    known: int = 0
    masks: int = 0
    failed: list[tuple[Path, Exception]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EverythingJob:
    """What a run does with each image.

    Args:
        options: Options of everything mode.
        crops: Layers of crops.
        reading: How the service reads the samples of the files.
        jobs: Number of images that are embedded at the same time, at least 1. Each holds the bytes of its file.
    """

    options: EverythingOptions
    crops: int
    reading: Reading
    jobs: int


async def search_folder(
    client: AsyncClient,
    folder: Path,
    paths: Sequence[Path],
    job: EverythingJob,
    state: FolderState,
    on_result: OnResult,
) -> EverythingRun:
    """Search images that are not in the state, and add their masks to it. A bad image does not stop the run.

    The service runs everything mode for one request of a caller at a time, so these requests follow each other. Other
    images are embedded meanwhile.

    Args:
        client: Client of the service.
        folder: Folder that the names of the images in the state are relative to.
        paths: Paths of the images.
        job: What is done with each image.
        state: State of the run.
        on_result: Callback after each image.

    Raises:
        Unauthorized: if the service refuses the API key. The remaining images are not tried.
        Unreachable: if the service does not answer. The remaining images are not tried.
        OSError: if the state cannot be written.
    """
    run = EverythingRun()
    max_bytes = (await limits_of(client)).max_image_bytes
    searching, writing = asyncio.Lock(), asyncio.Lock()

    async def search(path: Path) -> tuple[FileVersion, Everything]:
        version = FileVersion.of(path)
        check_size(path, max_bytes)
        image = await client.embed(path, levels=job.reading.levels, bands=job.reading.bands)
        async with searching:
            return version, await client.segment_everything(image, crops=job.crops, **job.options)

    async def handle(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        try:
            if state.has(name, FileVersion.of(path)):
                run.known += 1
                on_result(path, None)
                return
            version, found = await search(path)
        except (Unauthorized, Unreachable):
            raise
        except (ClientError, OSError, ValueError) as error:
            state.forget(name)
            run.failed.append((path, error))
            on_result(path, error)
            return
        async with writing:
            await asyncio.to_thread(state.add, name, version, _line_of(found))
        run.done += 1
        run.masks += len(found.masks)
        on_result(path, found)

    await each(paths, handle, job.jobs)
    return run


def _line_of(found: Everything) -> dict[str, Any]:
    return {"width": found.width, "height": found.height, "masks": [mask.record for mask in found.masks]}
