"""The same work on many photos, by this process or by several: photos do not depend on each other."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from model_store.training.data.annotations import PhotoRecord

Result = TypeVar("Result")

Progress = Callable[[int, int], None]
Work = Callable[[int, PhotoRecord], Result]
"""What is done with a photo, given its place in the list and its record."""


def map_photos(
    open_work: Callable[[], AbstractContextManager[Work[Result]]],
    photos: Sequence[PhotoRecord],
    places: Sequence[int],
    *,
    processes: int,
    progress: Progress,
) -> list[Result]:
    """Results of the work on some photos, in the order of `places`.

    Args:
        open_work: Opens what the work needs, such as a model. Each process calls it once. It is pickled for others,
            so it must be made of functions of modules and plain values.
        photos: Records of all photos.
        places: Indices of those that are worked on.
        processes: Number of processes; 1 is this one.
        progress: Callback that is told (photos done, photos in all).

    Raises:
        Exception: Whatever the work raises, also in another process.
    """
    results: list[Result] = []
    # Opened here too: what cannot be opened is then said once, before any process starts.
    with open_work() as work:
        if processes == 1:
            for place in places:
                progress(len(results), len(places))
                results.append(work(place, photos[place]))
        else:
            # Not forked: threads of ONNX Runtime and torch are running here by now.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context, _open_in_this_process, (open_work,)) as pool:
                for result in pool.map(_work_in_this_process, places, [photos[place] for place in places]):
                    progress(len(results), len(places))
                    results.append(result)
    progress(len(places), len(places))
    return results


_opened: list[tuple[AbstractContextManager[Any], Work[Any]]] = []
"""What a process of the pool has opened, until it ends: its work, and what would close it."""


def _open_in_this_process(open_work: Callable[[], AbstractContextManager[Work[Any]]]) -> None:
    manager = open_work()
    _opened.append((manager, manager.__enter__()))


def _work_in_this_process(place: int, photo: PhotoRecord) -> Any:
    ((_, work),) = _opened
    return work(place, photo)
