"""The client's command line: segments one object or all objects of an image, or handles a folder of images.

Results go to stdout, progress bars and errors to stderr. Exit codes: 0 success, 1 failure, 2 wrong arguments, 130
interrupted. The command uses typer and rich, like the commands of the model store.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from .annotation_files import AnnotationPaths, write_annotations
from .annotations import AnnotatedImage, AnnotatedObject
from .arguments import RETRY_S, TIMEOUT_S
from .async_client import AsyncClient
from .blocking_client import Client
from .box_folder import BoxJob
from .boxes_command import segment_boxes_and_write
from .command_options import DEFAULT_URL, ApiKey, BandsOption, Jobs, LevelsOption, ModelName, Retry, Timeout, Url
from .command_rules import Use, refusal_of
from .cutout import write_cutout, write_mask
from .errors import ClientError, Unreachable
from .everything import given_options
from .everything_command import search_and_write, search_folder_and_write
from .everything_folder import EverythingJob
from .folder_command import embed_and_report, message_of
from .values import Embedded, Mask, Reading, Segmentation, Timing
from .wait_notice import WaitNotice

INTERRUPTED = 130
_START_HINT = "`edgesam serve` of edgesam-service starts one on this machine; --url or EDGESAM_URL names another"


class Point(NamedTuple):
    """A point in pixels; label 1 on the object, 0 beside it."""

    x: float
    y: float
    label: int


class Box(NamedTuple):
    """A box in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


def parse_point(text: str) -> Point:
    """Parse `X,Y` for a point on the object, or `X,Y:0` for a point beside it."""
    position, _, label = text.partition(":")
    numbers = _numbers(position)
    if len(numbers) != 2 or label not in {"", "0", "1"}:
        raise typer.BadParameter(f"{text!r} is not X,Y or X,Y:0")
    return Point(numbers[0], numbers[1], int(label or "1"))


def parse_box(text: str) -> Box:
    """Parse `X0,Y0,X1,Y1`."""
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise typer.BadParameter(f"{text!r} is not X0,Y0,X1,Y1")
    return Box(numbers[0], numbers[1], numbers[2], numbers[3])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="Image file.", show_default=False)] = None,
    *,
    point: Annotated[
        list[Point] | None,
        typer.Option(parser=parse_point, metavar="X,Y[:0]", help="Point on the object, or beside it with :0."),
    ] = None,
    box: Annotated[
        Box | None, typer.Option(parser=parse_box, metavar="X0,Y0,X1,Y1", help="Box around the object.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the object as a PNG file, transparent around it. With --everything: a JSON list of masks.",
        ),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Write the mask as a PNG file, white inside.")] = None,
    candidate: Annotated[
        int,
        typer.Option(min=1, help="Number of the mask to write if the point is ambiguous. Mask 1 is the best."),
    ] = 1,
    levels: LevelsOption = "auto",
    bands: BandsOption = None,
    coco: Annotated[Path | None, typer.Option(help="Write a COCO file with polygons.")] = None,
    coco_rle: Annotated[Path | None, typer.Option(help="Write a COCO file with run lengths.")] = None,
    labelme: Annotated[Path | None, typer.Option(help="Write a labelme file.")] = None,
    yolo: Annotated[
        Path | None, typer.Option(help="Write a dataset for YOLO segmentation into this folder, new or empty.")
    ] = None,
    label: Annotated[str, typer.Option(help="Name of the object in COCO, labelme and YOLO files.")] = "object",
    crop: Annotated[bool, typer.Option("--crop", help="Crop the PNG files to the object's box.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything", help="Find all objects. With --folder: of all images; needs --coco or --coco-rle."
        ),
    ] = False,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Points along each side of the grid of --everything.")
    ] = None,
    crops: Annotated[
        int,
        typer.Option(min=0, max=4, help="Layers of crops that --everything searches too, for small objects."),
    ] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="--everything places no point where a mask was found before.")
    ] = False,
    max_masks: Annotated[int | None, typer.Option(min=1, help="Largest number of masks of --everything.")] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Least quality of a mask of --everything.")
    ] = None,
    stability_score_thresh: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Least stability of a mask of --everything.")
    ] = None,
    stability_score_offset: Annotated[
        float | None, typer.Option(min=0.0, help="Offset of the logits by which stability is measured.")
    ] = None,
    box_nms_thresh: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="IoU of boxes above which one of two masks is dropped.")
    ] = None,
    min_mask_region_area: Annotated[
        int | None, typer.Option(min=0, help="Size of holes and islands that --everything removes, in pixels.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Embed all images in this folder and its sub-folders.")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="CSV or COCO file with boxes of images in --folder. Write --masks, --coco or --coco-rle."),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Write the mask of each box of --boxes into this folder.")] = None,
    jobs: Jobs = 4,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: ModelName = None,
    timeout: Timeout = TIMEOUT_S,
    retry: Retry = RETRY_S,
) -> None:
    """Segment an object or all objects of an image, or embed or segment all images of a folder.

    Coordinates are pixels of the upright image: x to the right, y down.
    """
    annotations = AnnotationPaths(coco=coco, coco_rle=coco_rle, labelme=labelme, yolo=yolo)
    options = given_options(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        stability_score_offset=stability_score_offset,
        box_nms_thresh=box_nms_thresh,
        min_mask_region_area=min_mask_region_area,
        max_masks=max_masks,
        fast=fast or None,
    )
    use = Use(
        has_image=image is not None,
        has_folder=folder is not None,
        has_boxes=boxes is not None,
        has_masks=masks is not None,
        has_prompt=bool(point) or box is not None,
        is_everything=everything,
        has_everything_options=bool(options or crops),
        has_output=output is not None,
        has_mask_options=bool(mask or crop) or candidate > 1,
        annotations=annotations,
        has_label=bool(label.strip()),
    )
    if message := refusal_of(use):
        raise typer.BadParameter(message)
    reading = Reading(levels, bands)
    job = EverythingJob(options, crops, reading, jobs)
    on_wait = WaitNotice()

    def connect() -> AsyncClient:
        return AsyncClient(url, api_key, timeout_s=timeout, retry_s=retry, model=model, on_wait=on_wait)

    with _reported_errors():
        if folder is not None:
            if boxes is not None:
                box_job = BoxJob(reading, jobs, masks)
                is_complete = segment_boxes_and_write(folder, boxes, box_job, model, label, annotations, connect)
            elif everything:
                is_complete = search_folder_and_write(folder, job, model, label, annotations, connect)
            else:
                is_complete = embed_and_report(folder, jobs, reading, connect)
            raise typer.Exit(0 if is_complete else 1)
        assert image is not None
        data = image.read_bytes()
        with Client(url, api_key, timeout_s=timeout, retry_s=retry, model=model, on_wait=on_wait) as client:
            _warn_if_untrained(client)
            with _upload_bar(image.name) as progress:
                embedded = client.embed(data, progress=progress, levels=levels, bands=bands)
            _print_embedded(image, embedded)
            if everything:
                search_and_write(client, image, data, embedded, job, label, output, annotations)
            if not use.has_prompt:
                return
            answer = _segment(client, embedded, point or [], box)
        chosen = _chosen(answer, candidate)
        for path in _write_images(data, chosen, output, mask, crop=crop):
            typer.echo(f"written  {path}")
        annotated = AnnotatedImage(image.name, answer.width, answer.height, [AnnotatedObject(label, chosen)])
        for path in write_annotations(annotations, image, data, annotated):
            typer.echo(f"written  {path}")


def _segment(client: Client, image: Embedded, points: list[Point], box: Box | None) -> Segmentation:
    return client.segment(
        image,
        points=[(x, y) for x, y, _ in points] or None,
        labels=[on_object for _, _, on_object in points] or None,
        box=box,
        cleanup="auto",
    )


def _chosen(answer: Segmentation, candidate: int) -> Mask:
    """Print all masks, and return the one that --candidate selects."""
    _print_masks(answer, candidate)
    if candidate > len(answer.masks):
        _fail(f"there is no mask {candidate}: the prompt has {len(answer.masks)}", 1)
    return answer.masks[candidate - 1]


def _write_images(data: bytes, chosen: Mask, output: Path | None, mask: Path | None, *, crop: bool) -> Iterator[Path]:
    """Write the PNG files that were asked for, and yield their paths."""
    if output:
        write_cutout(data, chosen, output, crop=crop)
        yield output
    if mask:
        write_mask(chosen, mask, crop=crop)
        yield mask


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Report an expected error in one line, and exit."""
    try:
        yield
    except Unreachable as error:
        _fail(f"{message_of(error)} {_START_HINT}", 1)
    except (ClientError, OSError, ValueError) as error:
        _fail(message_of(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; embedded images stay embedded, and the same command continues", INTERRUPTED)


def _fail(message: str, exit_code: int) -> NoReturn:
    _print_error(f"error: {message}")
    raise typer.Exit(exit_code)


def _print_error(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _upload_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, visible=False)
        yield lambda sent, total: bar.update(task, completed=sent, total=total, visible=True)


def _warn_if_untrained(client: Client) -> None:
    models = client.models()
    used = next((model for model in models if model.name == client.model), models[0])
    if not used.is_trained:
        _print_error(f"warning: the service runs {used.name}, which is not trained. Its masks mean nothing")


def _print_embedded(path: Path, image: Embedded) -> None:
    state = "embedded" if image.was_uploaded else "known, not uploaded"
    typer.echo(f"image    {path}: {image.width} x {image.height}, {state}, image_hash {image.image_hash}")
    if image.image_id != image.image_hash or image.applied_levels != "full":
        typer.echo(f"levels   {image.applied_levels}, image_id {image.image_id}")
    _print_timing("embed", image.timing)


def _print_masks(answer: Segmentation, candidate: int) -> None:
    """Print all masks with their numbers. A star marks the one that --candidate selects."""
    _print_timing("segment", answer.timing)
    for number, mask in enumerate(answer.masks, start=1):
        box = ",".join(map(str, mask.box))
        mark = "*" if number == candidate else " "
        numbers = f"score {mask.score:.3f}, {mask.area} pixels, box {box}"
        typer.echo(f"mask {number}{mark}  {numbers}, mask_id {mask.mask_id}")


def _print_timing(request: str, timing: Timing) -> None:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in timing.stages_ms.items())
    typer.echo(f"{request:<8} {timing.round_trip_ms:.1f} ms round trip; in the service, in ms: {stages or 'unknown'}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
