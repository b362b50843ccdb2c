"""`evaluate` on the command line; torch is imported only where a checkpoint is measured."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from model_store.catalog import ModelStoreError, UsageError
from model_store.importing import require_extra
from model_store.training.loop.progress import counter

if TYPE_CHECKING:
    from model_store.evaluation.segmenters import Segmenter

_PIPED_WIDTH = 200


def evaluate(
    data: Annotated[
        list[str],
        typer.Option(
            help="Photos with masks: a folder with annotations.jsonl, an SA-1B folder, or COCO- or LVIS-style "
            "annotations.json[:IMAGES]; may be repeated."
        ),
    ],
    *,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A checkpoint, through torch; may be repeated.")] = None,
    model: Annotated[list[Path] | None, typer.Option(help="An artifact's folder, through its graphs.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="A running service.")] = None,
    api_key: Annotated[str, typer.Option(envvar="EDGESAM_API_KEY", help="For a service that asks for one.")] = "",
    baselines: Annotated[bool, typer.Option(help="Also box filled, GrabCut and flood fill.")] = True,
    max_photos: Annotated[int | None, typer.Option(min=1, help="Photos, spread over the data.")] = None,
    max_instances: Annotated[
        int | None, typer.Option(min=1, help="Objects of a photo; SA-1B is measured with 64.")
    ] = None,
    corrections: Annotated[int, typer.Option(min=0, help="Clicks after the first prompt.")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures.json, table.md and contact sheets; not in the repository.")
    ] = None,
    sheet: Annotated[bool, typer.Option(help="Draw contact sheets, which show photos of the data.")] = True,
    device: Annotated[str, typer.Option(help="For checkpoints: cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0 leaves it to torch.")] = 0,
) -> None:
    """Measure mIoU by EdgeSAM's protocol: box and middle click, each corrected twice.

    [bold]Examples[/bold]

    python -m model_store evaluate --data data/heldout --checkpoint out/run1/edgesam.pth --out out/evaluation

    python -m model_store evaluate --data data/heldout --model models/plants-7 --url http://127.0.0.1:8000

    python -m model_store evaluate --data coco/annotations/instances_val2017.json:coco/val2017 --model models/edge-sam
    """
    from model_store.evaluation import report  # noqa: PLC0415 - the other commands start faster
    from model_store.evaluation.protocol import Protocol  # noqa: PLC0415 - the same
    from model_store.evaluation.protocol import evaluate as measure  # noqa: PLC0415 - the same
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - the same

    if not (checkpoint or model or url or baselines):
        raise UsageError("nothing to measure: give --checkpoint, --model or --url, or leave the baselines in")
    photos = [photo for place in data for photo in read_annotations(place)]
    protocol = Protocol(corrections=corrections, max_instances=max_instances, max_photos=max_photos)
    with ExitStack() as stack:
        segmenters = [
            *_torch_segmenters(checkpoint or [], device, threads),
            *_graph_segmenters(model or []),
            *_service_segmenters(url or [], api_key, stack),
        ]
        progress = stack.enter_context(counter("measuring photos"))
        findings = measure(photos, segmenters, protocol, baselines=baselines, progress=progress)
        figures = report.summary(findings)
        kinds = (report.table_rows, report.size_rows, report.boundary_rows, report.calibration_rows)
        tables = [table for kind in kinds if (table := kind(figures))[1]]
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "figures.json").write_text(json.dumps(figures, indent=2))
            (out / "table.md").write_text("\n\n".join(report.markdown(*table) for table in tables) + "\n")
            for number, segmenter in enumerate(segmenters if sheet else []):
                import cv2  # noqa: PLC0415 - only here

                drawn = report.contact_sheet(photos, segmenter, findings)
                cv2.imwrite(str(out / f"sheet-{number}.jpg"), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    for header, rows in tables:
        _print(header, rows)


def _torch_segmenters(checkpoints: list[Path], device: str, threads: int) -> list["Segmenter"]:
    if not checkpoints:
        return []
    require_extra()
    import torch  # noqa: PLC0415 - graphs and services are measured without torch

    from model_store.checkpoint import CheckpointError, load_checkpoint  # noqa: PLC0415 - the same
    from model_store.evaluation.segmenters import TorchSegmenter  # noqa: PLC0415 - the same

    if threads:
        torch.set_num_threads(threads)
    try:
        return [TorchSegmenter(load_checkpoint(path), device=device, name=str(path)) for path in checkpoints]
    except CheckpointError as error:
        raise ModelStoreError(str(error)) from error


def _graph_segmenters(directories: list[Path]) -> list["Segmenter"]:
    from model_store.evaluation.segmenters import GraphSegmenter  # noqa: PLC0415 - the other commands start faster

    return [GraphSegmenter(directory) for directory in directories]


def _service_segmenters(urls: list[str], api_key: str, stack: ExitStack) -> list["Segmenter"]:
    if not urls:
        return []
    import httpx  # noqa: PLC0415 - everything else is measured without it

    from model_store.evaluation.segmenters import ServiceSegmenter  # noqa: PLC0415 - the same

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    clients = [stack.enter_context(httpx.Client(base_url=url, timeout=120.0, headers=headers)) for url in urls]
    return [ServiceSegmenter(url, client) for url, client in zip(urls, clients, strict=True)]


def _print(header: list[str], rows: list[list[str]]) -> None:
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)).print(table)
