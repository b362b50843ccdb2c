"""Photos of the training folders that are set aside: they are not trained on, so that models can be chosen by them."""

import functools
from collections.abc import Iterable
from pathlib import Path

from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.photo_list import read_photo_list

SET_ASIDE_LIST = Path(__file__).with_name("set_aside.txt")


def without_set_aside(records: Iterable[PhotoRecord]) -> list[PhotoRecord]:
    """Return the photos that training may use, in their order.

    Args:
        records: Photos of any folder. A photo is recognised by its file name, in any folder.
    """
    names = set_aside_names()
    return [record for record in records if record.path.name not in names]


@functools.cache
def set_aside_names() -> frozenset[str]:
    """Return the file names of `set_aside.txt`."""
    return frozenset(read_photo_list(SET_ASIDE_LIST))
