"""The part of the command line that makes masks of the boxes in a file, for the images of a folder."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from .annotation_files import AnnotationPaths
from .annotations import Segmentation
from .async_client import AsyncClient
from .box_dataset import write_box_dataset
from .box_files import BoxedImage, BoxFile, Refusal
from .box_folder import BoxJob, BoxRun, segment_folder
from .coco_boxes import read_coco_boxes
from .csv_boxes import read_csv_boxes
from .everything_command import first_model
from .folder_command import images_bar, message_of
from .folder_state import FolderState, state_path

# A file in another format has as many broken rows as lines.
_LISTED_REFUSALS = 20


def segment_boxes_and_write(
    folder: Path,
    boxes: Path,
    job: BoxJob,
    model: str | None,
    label: str,
    annotations: AnnotationPaths,
    connect: Callable[[], AsyncClient],
) -> bool:
    """Segment the boxes of a file, and write PNG files, COCO files, or both. An earlier run is continued.

    Args:
        folder: Folder of the images.
        boxes: CSV or COCO file with boxes.
        job: What is done with each image.
        model: Name of the model; None for the service's first one.
        label: Label of rows of a CSV file without one.
        annotations: Path of a COCO file, with polygons, run lengths, or both; none if only PNG files are written.
        connect: Maker of the client.

    Returns:
        Whether there was a box and all boxes have masks.

    Raises:
        ClientError: if the service does not answer, or refuses the API key.
        OSError: if the folder or the file of boxes cannot be read, or a file not be written.
        ValueError: if the file is no file of boxes, or the state is that of another run.
    """
    os.scandir(folder).close()  # raises OSError once, not for each image
    if boxes.resolve() in {path.resolve() for path in (annotations.coco, annotations.coco_rle) if path}:
        raise ValueError(f"The result would replace {boxes}. Name another file.")
    given = read_csv_boxes(boxes, label) if boxes.suffix.lower() != ".json" else read_coco_boxes(boxes)
    if not given.images:
        _print_refusals(boxes, given.refused)
        typer.echo(f"error: {boxes} has no usable box", err=True)
        return False
    started = time.monotonic()
    if job.masks:
        job.masks.mkdir(parents=True, exist_ok=True)
    result = annotations.coco or annotations.coco_rle or job.masks
    assert result is not None
    # The service's first model may be another one when the run goes on.
    settings = {"reading": job.reading.parameters, "model": model or asyncio.run(first_model(connect))}
    with FolderState(state_path(result), "boxes", settings) as state:
        run = asyncio.run(_segment(folder, given, job, state, connect))
        _write_datasets(annotations, given, state)
        refused = [*given.refused, *run.refused]
        is_complete = not run.failed and not refused
        if is_complete:
            state.remove()
    if job.masks:
        typer.echo(f"written  {job.masks}")
    typer.echo(
        f"{len(given.images)} images in {time.monotonic() - started:.1f} s: {run.done} segmented, {run.masks} masks, "
        f"{run.known} known before, {len(run.failed)} failed; {len(refused)} refused"
    )
    for image, error in run.failed:
        typer.echo(f"failed: {boxes}, {image.place}: {image.name}: {message_of(error)}")
    _print_refusals(boxes, refused)
    if not is_complete:
        typer.echo("The same command tries what is missing again, and keeps the other masks.")
    return is_complete


def _write_datasets(annotations: AnnotationPaths, given: BoxFile, state: FolderState) -> None:
    files: tuple[tuple[Path | None, Segmentation], ...] = (
        (annotations.coco, "polygons"),
        (annotations.coco_rle, "rle"),
    )
    for path, segmentation in files:
        if path is not None:
            write_box_dataset(path, given, state, segmentation)
            typer.echo(f"written  {path}")


async def _segment(
    folder: Path, given: BoxFile, job: BoxJob, state: FolderState, connect: Callable[[], AsyncClient]
) -> BoxRun:
    with images_bar() as progress:
        bar = progress.add_task("segmenting", total=len(given.images))
        count = 0

        def on_result(image: BoxedImage, outcome: int | Exception | None) -> None:
            nonlocal count
            count += 1
            progress.advance(bar)
            if isinstance(outcome, Exception):
                line = f"error: {image.name}: {message_of(outcome)}"
            elif outcome is None or not progress.disable:
                return
            else:  # no terminal: a line in the log
                line = f"{count} of {len(given.images)}: {image.name}: {outcome} masks"
            progress.console.print(line, markup=False, soft_wrap=True)  # above the bar, not over it

        async with connect() as client:
            return await segment_folder(client, folder, given.images, job, state, on_result)


def _print_refusals(boxes: Path, refused: Sequence[Refusal]) -> None:
    for refusal in refused[:_LISTED_REFUSALS]:
        typer.echo(f"refused: {boxes}, {refusal.place}: {refusal.reason}")
    if len(refused) > _LISTED_REFUSALS:
        typer.echo(f"refused: {len(refused) - _LISTED_REFUSALS} more")
