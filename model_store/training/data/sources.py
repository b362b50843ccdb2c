"""Where a step's photos come from: a shelf in memory, or files that several processes read ahead of time."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.sampling import weights
from model_store.training.data.shelf import MAX_SIDE, Shelf, decode_photo, join_shelves, shelve

_AHEAD = 4096  # photos in the order that the readers are given at a time


class Source(Protocol):
    """Photos with masks, chosen by weight."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Shelf, Tensor]:
        """A shelf on the run's device, and which `count` of its photos to take."""
        ...


class ResidentSource:
    """A shelf that is in the memory of the device for the whole run."""

    def __init__(self, shelf: Shelf, device: torch.device) -> None:
        self._shelf = shelf.to(device)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Shelf, Tensor]:
        chosen = torch.multinomial(self._shelf.photo_weights, count, replacement=True, generator=generator)
        return self._shelf, chosen


class StreamedSource:
    """Photos read, decoded and reduced by worker processes: for data that does not fit into memory.

    Args:
        records: all photos.
        device: where the drawn ones are put.
        workers: processes that read; 0 reads in this one.
        max_side: longer photos are reduced to it, pixels.
    """

    def __init__(
        self, records: Sequence[PhotoRecord], device: torch.device, *, workers: int, max_side: int = MAX_SIDE
    ) -> None:
        self._photos = _ShelvedPhotos(records, max_side)
        self._device, self._workers = device, workers
        self._weights = torch.from_numpy(weights(records)[0])
        self._ready: Iterator[Shelf] | None = None

    def draw(self, count: int, generator: torch.Generator) -> tuple[Shelf, Tensor]:
        if self._ready is None:
            # The order is fixed by the run's generator at the first draw; readers are ahead of the steps.
            seed = int(torch.randint(2**31, (), generator=generator))
            self._ready = self._endless(torch.Generator().manual_seed(seed))
        drawn = join_shelves(list(itertools.islice(self._ready, count)))
        return drawn.to(self._device), torch.arange(count)

    def _endless(self, generator: torch.Generator) -> Iterator[Shelf]:
        while True:
            yield from DataLoader(
                self._photos,
                batch_size=None,
                sampler=WeightedRandomSampler(self._weights, _AHEAD, generator=generator),  # type: ignore[arg-type]  # a tensor is a sequence
                num_workers=self._workers,
                generator=generator,
                multiprocessing_context="spawn" if self._workers else None,
                prefetch_factor=8 if self._workers else None,
                pin_memory=False,
            )


class _ShelvedPhotos(Dataset[Shelf]):
    """Each photo as a shelf of its own."""

    def __init__(self, records: Sequence[PhotoRecord], max_side: int) -> None:
        self._records, self._max_side = records, max_side

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Shelf:
        record = self._records[index]
        _, mask_weights = weights([record])
        return shelve([decode_photo(record, self._max_side)], np.ones(1, np.float32), mask_weights)
