"""Options that the commands of evaluation share, and what they mean."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model_store.training.data.annotations import PhotoRecord

Data = Annotated[
    list[str],
    typer.Option(
        help="Photos with masks: a folder with annotations.jsonl, an SA-1B folder, or COCO- or LVIS-style "
        "annotations.json[:IMAGES]; may be repeated."
    ),
]
Only = Annotated[
    Path | None,
    typer.Option(
        help="Take exactly the photos whose file names this text file lists, for example "
        "model_store/training/data/set_aside.txt."
    ),
]
MaxPhotos = Annotated[int | None, typer.Option(min=1, help="Photos, spread over the data.")]
MaxInstances = Annotated[int | None, typer.Option(min=1, help="Objects of a photo; SA-1B is measured with 64.")]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes that measure, each on photos of its own; the figures are the same.")
]
Threads = Annotated[int, typer.Option(min=0, help="Threads of a process; 0 shares the cores among the processes.")]
ModelsDir = Annotated[
    Path,
    typer.Option("--models-dir", envvar="EDGESAM_STORE_DIR", help="Where fetched and imported models are kept."),
]


def read_photos(places: list[str], only: Path | None) -> "list[PhotoRecord]":
    """Records of all places, or of the photos that a list names.

    Raises:
        ModelStoreError: A place holds no data set, or a photo of the list is missing.
    """
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - quicker start
    from model_store.training.data.photo_list import listed_photos, read_photo_list  # noqa: PLC0415 - the same

    photos = [photo for place in places for photo in read_annotations(place)]
    return photos if only is None else listed_photos(photos, read_photo_list(only))


def threads_each(threads: int, processes: int) -> int:
    """Threads of each process; 0 where one process may take what its libraries like."""
    if threads or processes == 1:
        return threads
    return max(1, (os.cpu_count() or 1) // processes)
