"""`evaluate` on the command line; torch is imported only where a checkpoint is measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store import catalog, terminal
from model_store.catalog import UsageError
from model_store.evaluation.options import (
    Data,
    MaxInstances,
    MaxPhotos,
    ModelsDir,
    Only,
    Processes,
    Threads,
    read_photos,
    threads_each,
)
from model_store.training.loop.progress import counter
from service.manifest import Ranking, load_manifest

if TYPE_CHECKING:
    from model_store.evaluation.methods import Methods
    from model_store.evaluation.protocol import Finding
    from model_store.training.data.annotations import PhotoRecord


def evaluate(
    data: Data,
    *,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A checkpoint, through torch; may be repeated.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model's name or folder, through its graphs; may be repeated.")
    ] = None,
    url: Annotated[list[str] | None, typer.Option(help="A running service; may be repeated.")] = None,
    ranking_of: Annotated[
        str | None,
        typer.Option(help="A model whose ranking rule orders the masks of checkpoints; default: by stability."),
    ] = None,
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    api_key: Annotated[str, typer.Option(envvar="EDGESAM_API_KEY", help="For a service that asks for one.")] = "",
    baselines: Annotated[bool, typer.Option(help="Also box filled, GrabCut and flood fill.")] = True,
    only: Only = None,
    max_photos: MaxPhotos = None,
    max_instances: MaxInstances = None,
    corrections: Annotated[int, typer.Option(min=0, help="Clicks after the first prompt.")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures.json, table.md and contact sheets; not in the repository.")
    ] = None,
    sheet: Annotated[bool, typer.Option(help="Draw contact sheets, which show photos of the data.")] = True,
    device: Annotated[str, typer.Option(help="For checkpoints: cpu or cuda.")] = "cpu",
    processes: Processes = 1,
    threads: Threads = 0,
) -> None:
    """Measure masks by EdgeSAM's protocol: box and middle click, each corrected twice.

    [bold]Examples[/bold]

    python -m model_store evaluate --data data/heldout --checkpoint out/run1/model.safetensors --out out/evaluation

    python -m model_store evaluate --data data/heldout --model models/plants-7 --url http://127.0.0.1:8000

    python -m model_store evaluate --data data/heldout --model edgesam-lite --max-instances 4 --processes 2

    python -m model_store evaluate --data coco/annotations/instances_val2017.json:coco/val2017 --model models/edge-sam
    """
    # Here and not above: the other commands start faster.
    from model_store.evaluation.figures import summary  # noqa: PLC0415
    from model_store.evaluation.methods import Methods  # noqa: PLC0415
    from model_store.evaluation.protocol import Protocol  # noqa: PLC0415
    from model_store.evaluation.protocol import evaluate as measure  # noqa: PLC0415
    from model_store.evaluation.tables import tables  # noqa: PLC0415

    if not (checkpoint or model or url or baselines):
        raise UsageError("nothing to measure: give --checkpoint, --model or --url, or leave the baselines in")
    photos = read_photos(data, only)
    methods = Methods(
        checkpoints=tuple(checkpoint or ()),
        models=tuple(catalog.find_artifact(name, models_dir) for name in model or ()),
        urls=tuple(url or ()),
        api_key=api_key,
        ranking=_ranking_of(ranking_of, models_dir),
        device=device,
        threads=threads_each(threads, processes),
    )
    protocol = Protocol(corrections=corrections, max_instances=max_instances, max_photos=max_photos)
    with counter("measuring photos") as progress:
        findings = measure(photos, methods.open, protocol, baselines=baselines, processes=processes, progress=progress)
    figures = summary(findings)
    made = tables(figures)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=2))
        (out / "table.md").write_text("\n\n".join(table.markdown() for table in made) + "\n")
        if sheet:
            _draw_sheets(photos, methods, findings, out)
    for table in made:
        terminal.print_table(table.title, table.header, table.rows)


def _ranking_of(model: str | None, models_dir: Path) -> Ranking:
    return Ranking() if model is None else load_manifest(catalog.find_artifact(model, models_dir)).ranking


def _draw_sheets(photos: "Sequence[PhotoRecord]", methods: "Methods", findings: "Sequence[Finding]", out: Path) -> None:
    import cv2  # noqa: PLC0415 - only here

    from model_store.evaluation.sheet import contact_sheet  # noqa: PLC0415 - the same

    with methods.open() as segmenters:
        for number, segmenter in enumerate(segmenters):
            drawn = contact_sheet(photos, segmenter, findings)
            cv2.imwrite(str(out / f"sheet-{number}.jpg"), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
