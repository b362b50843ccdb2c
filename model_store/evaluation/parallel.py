"""Maps a function over photos, in this process or in several: photos do not depend on each other."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from model_store.training.data.annotations import PhotoRecord

Result = TypeVar("Result")

OnProgress = Callable[[int, int], None]
Work = Callable[[int, PhotoRecord], Result]
"""Function of one photo: of its index in the list, and its record."""


def map_photos(
    open_work: Callable[[], AbstractContextManager[Work[Result]]],
    photos: Sequence[PhotoRecord],
    indices: Sequence[int],
    *,
    processes: int,
    on_progress: OnProgress,
) -> list[Result]:
    """Return the results for some photos, in the order of `indices`.

    Args:
        open_work: Function that opens models or other resources and gives the work. Each process calls it once. It is
            pickled for other processes, so it must consist of functions of modules and plain values.
        photos: Records of all photos.
        indices: Indices of the photos to work on.
        processes: Number of processes; 1 is this one alone.
        on_progress: Callback that receives (photos done, photos in all).

    Raises:
        Exception: An exception of the work is raised here, also when it occurs in another process.
    """
    results: list[Result] = []
    # Opened here too: an error in opening is then raised once, before any process starts.
    with open_work() as work:
        if processes == 1:
            for index in indices:
                on_progress(len(results), len(indices))
                results.append(work(index, photos[index]))
        else:
            # Not forked: threads of ONNX Runtime and torch are running in this process.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context, _open_in_this_process, (open_work,)) as pool:
                for result in pool.map(_work_in_this_process, indices, [photos[index] for index in indices]):
                    on_progress(len(results), len(indices))
                    results.append(result)
    on_progress(len(indices), len(indices))
    return results


_opened: list[tuple[AbstractContextManager[Any], Work[Any]]] = []
"""The work of a process of the pool and the context manager that holds its resources until the process ends."""


def _open_in_this_process(open_work: Callable[[], AbstractContextManager[Work[Any]]]) -> None:
    manager = open_work()
    _opened.append((manager, manager.__enter__()))


def _work_in_this_process(index: int, photo: PhotoRecord) -> Any:
    ((_, work),) = _opened
    return work(index, photo)
