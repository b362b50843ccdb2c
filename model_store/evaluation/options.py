"""Options that the commands of evaluation share, and functions that apply them."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model_store.training.data.annotations import PhotoRecord


class NumberFormat(StrEnum):
    """Number formats of cached embeddings. An enumeration: typer takes no list of literals."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


Data = Annotated[
    list[str],
    typer.Option(
        help="Photos with masks: a folder with annotations.jsonl, an SA-1B folder, or COCO- or LVIS-style "
        "annotations.json[:IMAGES]. May be repeated."
    ),
]
Only = Annotated[
    Path | None,
    typer.Option(
        help="Text file with file names; exactly these photos are taken. Example: "
        "model_store/training/data/set_aside.txt."
    ),
]
MaxPhotos = Annotated[int | None, typer.Option(min=1, help="Largest number of photos, spread over the data.")]
MaxInstances = Annotated[
    int | None, typer.Option(min=1, help="Largest number of objects of a photo. The protocol of SA-1B has 64.")
]
EmbeddingDtypes = Annotated[
    list[NumberFormat] | None,
    typer.Option(
        help="Number format to which the embeddings of --model are rounded, as by EDGESAM_EMBEDDING_DTYPE. May be "
        "repeated. Default: float32."
    ),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Number of processes that measure. The figures do not depend on it.")
]
Threads = Annotated[
    int, typer.Option(min=0, help="Number of threads of a process. 0 divides the cores among the processes.")
]


def read_photos(sources: list[str], only: Path | None) -> "list[PhotoRecord]":
    """Return the records of all data sets, or of the photos that a list names.

    Args:
        sources: Data sets, as `read_annotations` takes them.
        only: File with a list of photos; None for all photos.

    Raises:
        ModelStoreError: A source is no data set, or a photo of the list is missing.
    """
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - quicker start
    from model_store.training.data.photo_list import listed_photos, read_photo_list  # noqa: PLC0415 - the same

    photos = [photo for source in sources for photo in read_annotations(source)]
    return photos if only is None else listed_photos(photos, read_photo_list(only))


def threads_per_process(threads: int, processes: int) -> int:
    """Return the number of threads of each process; 0 leaves it to the libraries of a single process."""
    if threads or processes == 1:
        return threads
    return max(1, (os.cpu_count() or 1) // processes)
