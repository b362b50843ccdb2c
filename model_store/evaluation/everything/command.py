"""The command `calibrate-everything`: chooses the defaults of everything mode for a model, without torch."""

from typing import TYPE_CHECKING, Annotated

import typer

from model_store import terminal
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, find_artifact
from model_store.errors import UsageError
from model_store.evaluation.options import Data, MaxPhotos, Only, Processes, Threads, read_photos, threads_per_process
from model_store.export.manifest_file import replace_manifest
from model_store.options import InstalledModel, ModelsDir
from service.manifest import MANIFEST_NAME, load_manifest
from service.mask_rules import EverythingDefaults
from service.sam.everything.options import MAX_POINTS_PER_SIDE

if TYPE_CHECKING:
    from model_store.evaluation.everything.recall import Recall

_HEADER = (
    "defaults", "outputs", "quality", "quality above", "stability from", "found, %", "mean IoU, %", "masks of a photo",
    "points decoded in full, %",
)  # fmt: skip


def calibrate_everything(
    model: InstalledModel,
    data: Data,
    *,
    points_per_side: Annotated[
        int, typer.Option(min=1, max=MAX_POINTS_PER_SIDE, help="Points of the grid along each side.")
    ] = 16,
    most_masks: Annotated[float, typer.Option(min=1, help="Largest mean number of masks of a photo.")] = 20,
    most_decoded: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, help="Largest share of points that are decoded in full, 0 to 1. It bounds the time."
        ),
    ] = 1.0,
    min_mask_region_area: Annotated[
        int, typer.Option(min=0, help="Holes and islands of fewer pixels are removed from masks.")
    ] = 100,
    write: Annotated[
        bool, typer.Option("--write", help="Write the chosen defaults into the model's manifest.json.")
    ] = False,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    only: Only = None,
    max_photos: MaxPhotos = None,
    processes: Processes = 1,
    threads: Threads = 0,
) -> None:
    """Choose the thresholds of everything mode that find the most annotated objects with a bounded number of masks.

    An object is found when a mask has an IoU of at least 0.5 with it. Use photos on which the model was not trained.

    [bold]Examples[/bold]

    edgesam models calibrate-everything models/plants-7 --data data/validation

    edgesam models calibrate-everything models/plants-7 --data data/validation --most-decoded 0.4 --write
    """
    # Not at the top: the other commands start faster.
    from model_store.evaluation.everything.choosing import chosen_defaults  # noqa: PLC0415
    from model_store.evaluation.everything.grid_masks import grid_masks  # noqa: PLC0415
    from model_store.evaluation.everything.recall import recall_of  # noqa: PLC0415
    from model_store.evaluation.protocol import Protocol, selected_photos  # noqa: PLC0415

    directory = find_artifact(model, models_dir)
    manifest = load_manifest(directory)
    photos = read_photos(data, only)
    indices = selected_photos(photos, Protocol(max_photos=max_photos))
    with terminal.counter("measuring photos") as on_progress:
        measured = grid_masks(
            directory,
            photos,
            indices,
            points_per_side,
            processes=processes,
            threads=threads_per_process(threads, processes),
            on_progress=on_progress,
        )
    current = manifest.everything_defaults
    usual = EverythingDefaults(points_per_side=points_per_side, min_mask_region_area=min_mask_region_area)
    everything = usual.model_copy(
        update={"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "outputs": (0, 1, 2, 3)}
    )
    try:
        chosen, found = chosen_defaults(measured, usual, most_masks=most_masks, most_decoded=most_decoded)
    except ValueError as error:
        raise UsageError(str(error)) from error
    rows = [
        _row("the manifest's", current, recall_of(measured, current)),
        _row("no thresholds", everything, recall_of(measured, everything)),
        _row("chosen", chosen, found),
    ]
    objects = sum(masks.iou.shape[1] for masks in measured)
    terminal.print_table(f"{objects} objects of {len(measured)} photos", _HEADER, rows)
    if write:
        replace_manifest(directory, manifest.with_everything(chosen))
        typer.echo(f"written to {directory / MANIFEST_NAME}")


def _row(name: str, defaults: EverythingDefaults, recall: "Recall") -> tuple[str, ...]:
    return (
        name,
        ", ".join(map(str, defaults.outputs)),
        defaults.quality,
        f"{defaults.pred_iou_thresh:g}",
        f"{defaults.stability_score_thresh:g}",
        f"{100 * recall.found:.1f}",
        f"{100 * recall.mean_iou:.1f}",
        f"{recall.masks:.1f}",
        f"{100 * recall.decoded:.0f}",
    )
