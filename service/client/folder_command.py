"""The part of the command line that embeds a folder: progress, and what became of each file."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .async_client import AsyncClient
from .errors import Problem
from .folder import FolderResult, embed_folder
from .image_files import SkippedFile, find_images
from .values import Embedded, Reading

# A folder may hold thousands of label files beside its images.
_LISTED_PER_REASON = 20


def embed_and_report(folder: Path, jobs: int, reading: Reading, connect: Callable[[], AsyncClient]) -> bool:
    """Embed the images of a folder, and print what was embedded, what failed and what was skipped.

    Args:
        folder: Folder with images and sub-folders.
        jobs: Number of concurrent uploads.
        reading: Conversion of the samples of each image.
        connect: Maker of the client.

    Returns:
        Whether there was an image and all images are embedded now.

    Raises:
        OSError: if the folder cannot be read.
        Unauthorized: if the service refuses the API key.
        Unreachable: if the service does not answer.
    """
    found = find_images(folder)
    if not found.images:
        print_skipped(found.skipped)
        typer.echo(f"error: {folder} contains no image file", err=True)
        return False
    started = time.monotonic()
    result = _embed(found.images, jobs, reading, connect)
    seconds = time.monotonic() - started
    typer.echo(
        f"{len(found.images)} images in {seconds:.1f} s: {len(result.embedded)} embedded, {len(result.known)} known "
        f"before, {len(result.failed)} failed; {len(found.skipped)} skipped"
    )
    for path, error in result.failed:
        typer.echo(f"failed: {path}: {message_of(error)}")
    print_skipped(found.skipped)
    if result.evicted:
        typer.echo(
            f"error: the service's cache is too small: it has evicted {len(result.evicted)} of the images, first "
            f"{result.evicted[0]}. Give the service a larger cache (EDGESAM_MEMORY_CACHE_BYTES) or Redis "
            "(EDGESAM_REDIS_URL).",
            err=True,
        )
    return result.is_complete


def message_of(error: Exception) -> str:
    """The message of an expected error, in one line."""
    if isinstance(error, Problem):
        notes = " ".join(getattr(error, "__notes__", ()))
        return f"{error} {notes}".strip()
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return str(error)


def _embed(paths: Sequence[Path], jobs: int, reading: Reading, connect: Callable[[], AsyncClient]) -> FolderResult:
    async def run(progress: Progress) -> FolderResult:
        bar = progress.add_task("embedding", total=len(paths))

        def on_result(path: Path, outcome: Embedded | Exception) -> None:
            progress.advance(bar)
            if isinstance(outcome, Exception):
                line = f"error: {path}: {message_of(outcome)}"
                progress.console.print(line, markup=False, soft_wrap=True)  # above the bar, not over it

        async with connect() as client:
            return await embed_folder(client, paths, jobs=jobs, reading=reading, on_result=on_result)

    with images_bar() as progress:
        return asyncio.run(run(progress))


def images_bar() -> Progress:
    """A progress bar on a terminal that counts images; elsewhere it draws nothing."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Print a line for each skipped file, and a sum where there are many with the same reason."""

    def reason_of(file: SkippedFile) -> str:
        return file.reason

    for reason, group in groupby(sorted(skipped, key=reason_of), key=reason_of):
        files = list(group)
        for path, _ in files[:_LISTED_PER_REASON]:
            typer.echo(f"skipped: {path}: {reason}")
        if len(files) > _LISTED_PER_REASON:
            typer.echo(f"skipped: {len(files) - _LISTED_PER_REASON} more: {reason}")
