"""Lists of photos: text files with one file name a line, and the selection of records by them."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from model_store.errors import ModelStoreError
from model_store.training.data.annotations import PhotoRecord

_NAMES_IN_A_MESSAGE = 5


def read_photo_list(path: Path) -> tuple[str, ...]:
    """Return the file names of a list, in its order.

    Args:
        path: Path of a text file in UTF-8. Empty lines and lines that begin with ``#`` are comments.

    Raises:
        ModelStoreError: The file cannot be read, names no photo, names a folder, or names one photo twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelStoreError(f"{path}: no readable list of photos ({error})") from error
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise ModelStoreError(f"{path} names no photo; write one file name a line")
    if in_folders := [name for name in names if "/" in name]:
        raise ModelStoreError(f"{path} has folders in it ({_shown_names(in_folders)}); write file names only")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelStoreError(f"{path} names {_shown_names(repeated)} more than once")
    return names


def listed_photos(photos: Sequence[PhotoRecord], names: Collection[str]) -> list[PhotoRecord]:
    """Return exactly the photos with these file names, in the order of `photos`.

    Raises:
        ModelStoreError: A photo is missing, or two photos have the same listed name.
    """
    wanted = set(names)
    found = [photo for photo in photos if photo.path.name in wanted]
    counts = Counter(photo.path.name for photo in found)
    if missing := sorted(wanted - counts.keys()):
        raise ModelStoreError(
            f"{len(missing)} of {len(wanted)} listed photos are not in the data: {_shown_names(missing)}; "
            "name the folders that have them with --data"
        )
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise ModelStoreError(
            f"more than one photo of the data is called {_shown_names(repeated)}; name one folder with it"
        )
    return found


def _shown_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_IN_A_MESSAGE])
    return shown if len(names) <= _NAMES_IN_A_MESSAGE else f"{shown}, …"
