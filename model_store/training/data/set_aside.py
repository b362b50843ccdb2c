"""Photos of the training folders that nothing is trained on, so that choices can be made on them."""

import functools
from collections.abc import Iterable
from pathlib import Path

from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.photo_list import read_photo_list

SET_ASIDE_LIST = Path(__file__).with_name("set_aside.txt")


def without_set_aside(records: Iterable[PhotoRecord]) -> list[PhotoRecord]:
    """The photos that training may see, in their order.

    Args:
        records: Photos of any folder. A photo is recognised by its file name, whatever folder it lies in.
    """
    names = set_aside_names()
    return [record for record in records if record.path.name not in names]


@functools.cache
def set_aside_names() -> frozenset[str]:
    """File names of `set_aside.txt`."""
    return frozenset(read_photo_list(SET_ASIDE_LIST))
