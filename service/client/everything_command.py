"""The part of the command line that finds all objects: of one image, or of all images of a folder."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .annotation_files import AnnotationPaths, write_annotations, write_json
from .annotations import AnnotatedImage, AnnotatedObject
from .async_client import AsyncClient
from .blocking_client import Client
from .coco_file import write_coco_file
from .everything import Everything, EverythingAdvanced, EverythingEvent, OnEvent
from .everything_folder import EverythingJob, EverythingRun, search_folder
from .folder_command import images_bar, message_of, print_skipped
from .folder_state import FolderState, state_path
from .image_files import find_images
from .values import Embedded


def search_and_write(
    client: Client,
    image: Path,
    data: bytes,
    embedded: Embedded,
    job: EverythingJob,
    label: str,
    output: Path | None,
    annotations: AnnotationPaths,
) -> None:
    """Find all objects of an image, print a summary, and write the files that were asked for.

    Args:
        client: Client of the service.
        image: Path of the image.
        data: Bytes of the image.
        embedded: The image in the service.
        job: Options of everything mode.
        label: Name of the objects.
        output: Path of a JSON file with the list of SAM's records; None for none.
        annotations: Paths of annotations.

    Raises:
        ClientError: if the service gives no masks.
        OSError: if a file cannot be written.
        ValueError: if an option is malformed, or the image is too small for the crops.
    """
    with _prompts_bar(image.name) as on_event:
        found = client.segment_everything(embedded, crops=job.crops, on_event=on_event, **job.options)
    cached = ", from the cache" if found.cached else ""
    typer.echo(f"objects  {len(found.masks)} in {found.timing.round_trip_ms / 1000:.1f} s{cached}")
    if output:
        typer.echo(f"written  {write_json(output, [mask.record for mask in found.masks])}")
    objects = [AnnotatedObject(label, mask) for mask in found.masks]
    for path in write_annotations(
        annotations, image, data, AnnotatedImage(image.name, found.width, found.height, objects)
    ):
        typer.echo(f"written  {path}")


def search_folder_and_write(
    folder: Path,
    job: EverythingJob,
    model: str | None,
    label: str,
    annotations: AnnotationPaths,
    connect: Callable[[], AsyncClient],
) -> bool:
    """Find all objects of all images of a folder, and write one COCO file. An earlier run is continued.

    Args:
        folder: Folder with images and sub-folders.
        job: What is done with each image.
        model: Name of the model; None for the service's first one.
        label: Name of the objects.
        annotations: Path of a COCO file, with polygons, run lengths, or both.
        connect: Maker of the client.

    Returns:
        Whether there was an image and all images were searched.

    Raises:
        ClientError: if the service does not answer, or refuses the API key.
        OSError: if the folder cannot be read, or a file not be written.
        ValueError: if the state is that of a run with other options.
    """
    found = find_images(folder)
    if not found.images:
        print_skipped(found.skipped)
        typer.echo(f"error: {folder} contains no image file", err=True)
        return False
    started = time.monotonic()
    result = annotations.coco or annotations.coco_rle
    assert result is not None
    names = [path.relative_to(folder).as_posix() for path in found.images]
    # The service's first model may be another one when the run goes on.
    settings = _settings(job, model or asyncio.run(first_model(connect)))
    with FolderState(state_path(result), "everything", settings) as state:
        run = asyncio.run(_search(folder, found.images, job, state, connect))
        for path, segmentation in ((annotations.coco, "polygons"), (annotations.coco_rle, "rle")):
            if path is not None:
                write_coco_file(path, lambda: state.images(names), label, segmentation)  # type: ignore[arg-type]
                typer.echo(f"written  {path}")
        if not run.failed:
            state.remove()
    typer.echo(
        f"{len(names)} images in {time.monotonic() - started:.1f} s: {run.done} searched, {run.masks} objects, "
        f"{run.known} known before, {len(run.failed)} failed; {len(found.skipped)} skipped"
    )
    for path, error in run.failed:
        typer.echo(f"failed: {path}: {message_of(error)}")
    if run.failed:
        typer.echo("The same command tries the failed images again, and keeps the others.")
    print_skipped(found.skipped)
    return not run.failed


async def first_model(connect: Callable[[], AsyncClient]) -> str:
    """The name of the service's first model."""
    async with connect() as client:
        return (await client.models())[0].name


def _settings(job: EverythingJob, model: str) -> dict[str, Any]:
    """The settings that the masks depend on."""
    return {
        "options": dict(sorted(job.options.items())),
        "crops": job.crops,
        "reading": job.reading.parameters,
        "model": model,
    }


async def _search(
    folder: Path, paths: list[Path], job: EverythingJob, state: FolderState, connect: Callable[[], AsyncClient]
) -> EverythingRun:
    with images_bar() as progress:
        bar = progress.add_task("searching", total=len(paths))
        count = 0

        def on_result(path: Path, outcome: Everything | Exception | None) -> None:
            nonlocal count
            count += 1
            progress.advance(bar)
            if isinstance(outcome, Exception):
                line = f"error: {path}: {message_of(outcome)}"
            elif outcome is None or not progress.disable:
                return
            else:  # no terminal: a line in the log
                line = f"{count} of {len(paths)}: {path}: {len(outcome.masks)} objects"
            progress.console.print(line, markup=False, soft_wrap=True)  # above the bar, not over it

        async with connect() as client:
            return await search_folder(client, folder, paths, job, state, on_result)


@contextmanager
def _prompts_bar(name: str) -> Iterator[OnEvent]:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=1.0)

        def on_event(event: EverythingEvent) -> None:
            if isinstance(event, EverythingAdvanced):
                done = event.crop + event.done / max(event.prompts, 1)
                bar.update(task, completed=done, total=float(event.crops))

        yield on_event
