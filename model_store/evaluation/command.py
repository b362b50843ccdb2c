"""The command `evaluate`; torch is imported only when a checkpoint is measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store import terminal
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, find_artifact
from model_store.errors import UsageError
from model_store.evaluation.options import (
    Data,
    EmbeddingDtypes,
    MaxInstances,
    MaxPhotos,
    NumberFormat,
    Only,
    Processes,
    Threads,
    read_photos,
    threads_per_process,
)
from model_store.options import MeasuredModels, ModelsDir
from service.manifest import load_manifest
from service.mask_rules import Ranking

if TYPE_CHECKING:
    from model_store.evaluation.methods import Methods
    from model_store.evaluation.protocol import Measurement
    from model_store.evaluation.tables import Table
    from model_store.training.data.annotations import PhotoRecord


def evaluate(
    data: Data,
    *,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Checkpoint to measure through torch. May be repeated.")
    ] = None,
    model: MeasuredModels = None,
    embedding_dtype: EmbeddingDtypes = None,
    url: Annotated[
        list[str] | None, typer.Option(help="Address of a running service to measure. May be repeated.")
    ] = None,
    ranking_of: Annotated[
        str | None,
        typer.Option(
            help="Model whose ranking rule orders the masks of checkpoints. Default: that of the architecture."
        ),
    ] = None,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    api_key: Annotated[
        str, typer.Option(envvar="EDGESAM_API_KEY", help="API key for a service that requires one.")
    ] = "",
    baselines: Annotated[bool, typer.Option(help="Also measure a filled box, GrabCut and flood fill.")] = True,
    only: Only = None,
    max_photos: MaxPhotos = None,
    max_instances: MaxInstances = None,
    corrections: Annotated[int, typer.Option(min=0, help="Number of corrections after the first prompt.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for figures.json, table.md and contact sheets. Keep it outside the repository."),
    ] = None,
    sheet: Annotated[bool, typer.Option(help="Draw contact sheets, which show photos of the data.")] = True,
    device: Annotated[str, typer.Option(help="Device for checkpoints: cpu or cuda.")] = "cpu",
    processes: Processes = 1,
    threads: Threads = 0,
) -> None:
    """Measure masks by EdgeSAM's protocol: box and centre point, each corrected twice.

    [bold]Examples[/bold]

    edgesam models evaluate --data data/heldout --checkpoint out/run1/model.safetensors --out out/evaluation

    edgesam models evaluate --data data/heldout --model models/plants-7 --url http://127.0.0.1:8000

    edgesam models evaluate --data data/heldout --model edgesam-lite --max-instances 4 --processes 2

    edgesam models evaluate --data data/heldout --model plants --embedding-dtype float16 --embedding-dtype int8

    edgesam models evaluate --data coco/annotations/instances_val2017.json:coco/val2017 --model models/edge-sam
    """
    # Not at the top: the other commands start faster.
    from model_store.evaluation.methods import Methods  # noqa: PLC0415
    from model_store.evaluation.protocol import Protocol  # noqa: PLC0415
    from model_store.evaluation.protocol import evaluate as measure  # noqa: PLC0415
    from model_store.evaluation.summary import summary  # noqa: PLC0415
    from model_store.evaluation.tables import tables  # noqa: PLC0415

    if not (checkpoint or model or url or baselines):
        raise UsageError("nothing to measure: give --checkpoint, --model or --url, or leave the baselines in")
    photos = read_photos(data, only)
    methods = Methods(
        checkpoints=tuple(checkpoint or ()),
        models=tuple(find_artifact(name, models_dir) for name in model or ()),
        dtypes=tuple(each.value for each in embedding_dtype or [NumberFormat.FLOAT32]),
        urls=tuple(url or ()),
        api_key=api_key,
        ranking=_ranking_of(ranking_of, models_dir),
        device=device,
        threads=threads_per_process(threads, processes),
    )
    protocol = Protocol(corrections=corrections, max_instances=max_instances, max_photos=max_photos)
    with terminal.counter("measuring photos") as on_progress:
        measurements = measure(
            photos, methods.open, protocol, baselines=baselines, processes=processes, on_progress=on_progress
        )
    figures = summary(measurements)
    shown = tables(figures)
    if out is not None:
        _write(out, figures, shown)
        if sheet:
            _draw_sheets(photos, methods, measurements, out)
    for table in shown:
        terminal.print_table(table.title, table.header, table.rows)


def _ranking_of(model: str | None, models_dir: Path) -> Ranking | None:
    return None if model is None else load_manifest(find_artifact(model, models_dir)).ranking


def _write(out: Path, figures: object, shown: "Sequence[Table]") -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=2))
    (out / "table.md").write_text("\n\n".join(table.markdown() for table in shown) + "\n")


def _draw_sheets(
    photos: "Sequence[PhotoRecord]", methods: "Methods", measurements: "Sequence[Measurement]", out: Path
) -> None:
    import cv2  # noqa: PLC0415 - the other commands start faster

    from model_store.evaluation.contact_sheet import contact_sheet  # noqa: PLC0415 - the same

    with methods.open() as segmenters:
        for number, segmenter in enumerate(segmenters):
            drawn = contact_sheet(photos, segmenter, measurements)
            cv2.imwrite(str(out / f"sheet-{number}.jpg"), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
