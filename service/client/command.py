"""`python -m service.client`: cut out one object, or embed a folder ahead of a labelling session.

Results go to stdout, bars and errors to stderr. Exit codes: 0 done, 1 failed, 2 asked for what cannot be, 130
interrupted. It is made of typer and rich, like the model store's commands, so that both look and behave alike.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.client.clients import RETRY_S, TIMEOUT_S, AsyncClient, Client
from service.client.cutout import write_cutout, write_mask
from service.client.errors import ClientError, Problem
from service.client.folder import FolderResult, embed_folder, pictures_in
from service.client.values import Embedded, Segmentation, Timing

INTERRUPTED = 130
MAX_JOBS = 64


class Point(NamedTuple):
    """A click; label 1 on the object, 0 beside it."""

    x: float
    y: float
    label: int


class Box(NamedTuple):
    """Its corners."""

    x0: float
    y0: float
    x1: float
    y1: float


def parse_point(text: str) -> Point:
    """`X,Y`, or `X,Y:0` for what does not belong to the object."""
    position, _, label = text.partition(":")
    numbers = _numbers(position)
    if len(numbers) != 2 or label not in {"", "0", "1"}:
        raise typer.BadParameter(f"{text!r} is not X,Y or X,Y:0")
    return Point(numbers[0], numbers[1], int(label or "1"))


def parse_box(text: str) -> Box:
    """`X0,Y0,X1,Y1`."""
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise typer.BadParameter(f"{text!r} is not X0,Y0,X1,Y1")
    return Box(numbers[0], numbers[1], numbers[2], numbers[3])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    photo: Annotated[Path | None, typer.Argument(help="The picture's file.", show_default=False)] = None,
    *,
    point: Annotated[
        list[Point] | None,
        typer.Option(parser=parse_point, metavar="X,Y[:0]", help="A click on the object, or with :0 beside it."),
    ] = None,
    box: Annotated[
        Box | None, typer.Option(parser=parse_box, metavar="X0,Y0,X1,Y1", help="A box around the object.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the object as PNG, transparent around it.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Write the mask as PNG, white inside.")] = None,
    candidate: Annotated[
        int,
        typer.Option(min=1, help="Which of an ambiguous click's masks is written: 1 is the best, as they are printed."),
    ] = 1,
    crop: Annotated[bool, typer.Option("--crop", help="Cut what is written to the object's box.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Embed all pictures in this folder and below; what is known is not sent.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=MAX_JOBS, help="Pictures of the folder sent at a time.")] = 4,
    url: Annotated[str, typer.Option(envvar="EDGESAM_URL", help="The service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="EDGESAM_API_KEY", help="Where it asks for one; better given by the variable.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Bound of one attempt, seconds.")] = TIMEOUT_S,
    retry: Annotated[float, typer.Option(min=0.0, help="Time in which a request is repeated, seconds.")] = RETRY_S,
) -> None:
    """Cut out an object of PHOTO, or make all pictures of a folder ready for clicks.

    Coordinates are pixels of the upright picture, x to the right, y down.
    """
    if (photo is None) == (folder is None):
        raise typer.BadParameter("give a picture, or a folder with --folder")
    wants_object = bool(point) or box is not None
    wants_file = bool(output or mask or crop) or candidate > 1
    if folder is not None and (wants_object or wants_file):
        raise typer.BadParameter(
            "--folder embeds and cuts out nothing; leave out --point, --box, -o, --mask, --candidate and --crop"
        )
    if wants_file and not wants_object:
        raise typer.BadParameter("say what to cut out, with --point or --box")
    with _told():
        if folder is not None:
            _embed_folder(folder, jobs, lambda: AsyncClient(url, api_key, timeout_s=timeout, retry_s=retry))
            return
        assert photo is not None
        data = photo.read_bytes()
        with Client(url, api_key, timeout_s=timeout, retry_s=retry) as client:
            _warn_of_untrained(client)
            with _upload_bar(photo.name) as progress:
                picture = client.embed(data, progress=progress)
            _print_embedded(photo, picture)
            if not wants_object:
                return
            clicks = point or []
            answer = client.segment(
                picture,
                points=[(x, y) for x, y, _ in clicks] or None,
                labels=[label for _, _, label in clicks] or None,
                box=box,
            )
        _print_masks(answer, candidate)
        if candidate > len(answer.masks):
            _fail(f"there is no mask {candidate}: what was asked for has {len(answer.masks)}", 1)
        chosen = answer.masks[candidate - 1]
        if output:
            write_cutout(data, chosen, output, crop=crop)
            typer.echo(f"written  {output}")
        if mask:
            write_mask(chosen, mask, crop=crop)
            typer.echo(f"written  {mask}")


def _embed_folder(folder: Path, jobs: int, connect: Callable[[], AsyncClient]) -> None:
    paths = pictures_in(folder)
    if not paths:
        _fail(f"{folder}: there is no picture in it", 1)
    started = time.monotonic()

    async def run(progress: Progress) -> FolderResult:
        bar = progress.add_task("embedding", total=len(paths))

        def notice(path: Path, outcome: Embedded | Exception) -> None:
            progress.advance(bar)
            if isinstance(outcome, Exception):
                line = f"error: {path}: {_message(outcome)}"
                progress.console.print(line, markup=False, soft_wrap=True)  # above the bar, not over it

        async with connect() as client:
            return await embed_folder(client, paths, jobs=jobs, notice=notice)

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        result = asyncio.run(run(progress))
    seconds = time.monotonic() - started
    typer.echo(
        f"{len(paths)} pictures in {seconds:.1f} s: {len(result.embedded)} embedded, {len(result.known)} known before, "
        f"{len(result.failed)} failed"
    )
    for path, error in result.failed:
        typer.echo(f"failed: {path}: {_message(error)}")
    if result.evicted:
        typer.echo(
            f"error: the service has no room for {len(result.evicted)} of the pictures and has forgotten them again, "
            f"first {result.evicted[0]}. Give it a Redis (EDGESAM_REDIS_URL) or more memory "
            "(EDGESAM_MEMORY_CACHE_BYTES).",
            err=True,
        )
    if not result.is_complete:
        raise typer.Exit(1)


@contextmanager
def _told() -> Iterator[None]:
    """Turns what a person can act on into one line and an exit code."""
    try:
        yield
    except (ClientError, OSError, ValueError) as error:
        _fail(_message(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; what is embedded stays so, and the same command goes on from there", INTERRUPTED)


def _fail(message: str, exit_code: int) -> NoReturn:
    _say(f"error: {message}")
    raise typer.Exit(exit_code)


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _message(error: Exception) -> str:
    if isinstance(error, Problem):
        notes = " ".join(getattr(error, "__notes__", ()))
        return f"{error} {notes}".strip()
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return str(error)


@contextmanager
def _upload_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, visible=False)
        yield lambda sent, total: bar.update(task, completed=sent, total=total, visible=True)


def _warn_of_untrained(client: Client) -> None:
    for model in client.models():
        if not model.is_trained:
            _say(f"warning: the service runs {model.name}, which is not trained: its masks mean nothing")


def _print_embedded(photo: Path, picture: Embedded) -> None:
    state = "embedded" if picture.was_uploaded else "known, not uploaded"
    typer.echo(f"picture  {photo}: {picture.width} x {picture.height}, {state}, image_hash {picture.image_hash}")
    _print_timing("embed", picture.timing)


def _print_masks(answer: Segmentation, candidate: int) -> None:
    """All of them, numbered as --candidate counts; a star marks the chosen one."""
    _print_timing("segment", answer.timing)
    for number, mask in enumerate(answer.masks, start=1):
        box = ",".join(map(str, mask.box))
        mark = "*" if number == candidate else " "
        numbers = f"score {mask.score:.3f}, {mask.area} pixels, box {box}"
        typer.echo(f"mask {number}{mark}  {numbers}, mask_id {mask.mask_id}")


def _print_timing(request: str, timing: Timing) -> None:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in timing.stages_ms.items())
    typer.echo(f"{request:<8} {timing.round_trip_ms:.1f} ms there and back; in the service, ms: {stages or 'unknown'}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
