"""Window batches in the order of a run's steps, made ahead of time by loader workers."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from model_store.training.data.windows.dataset import WindowBatch, WindowDataset, WindowSize

_PREFETCHED = 2
# Forked workers share the memory of all photos' records with this process.
_WORKER_START = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


class WindowLoader:
    """Batches of windows of several sizes; each step has one size, the same in all processes.

    Seed, step and rank determine a batch, whichever worker makes it. So a continued run gets the same batches as a run
    without a break.

    Args:
        datasets: Data sets of windows, one for each size.
        seed: Seed of window sizes and windows.
        rank: Rank of this process; the sizes do not depend on it.
        workers: Number of processes that make batches; 0 makes them in this process.
        end_share: Share of the budget after which the first of several sizes is left out.
        pin_memory: Whether batches are in page-locked memory, for faster copies to a GPU.
    """

    def __init__(
        self,
        datasets: Sequence[WindowDataset],
        *,
        seed: int,
        rank: int = 0,
        workers: int = 0,
        end_share: float = 1.0,
        pin_memory: bool = False,
    ) -> None:
        self._datasets, self._seed, self._rank = datasets, seed, rank
        self._workers, self._end_share, self._pin_memory = workers, end_share, pin_memory

    @property
    def windows(self) -> list[WindowSize]:
        """Sizes of the windows."""
        return [dataset.window for dataset in self._datasets]

    def batches(self, first_step: int, progress_at: Callable[[int], float]) -> Iterator[WindowBatch]:
        """Return batches without end.

        Args:
            first_step: Step of the first batch.
            progress_at: Function of a step that returns the passed share of the budget, 0..1, called some steps ahead.
        """
        return iter(
            DataLoader(
                _Steps(self._datasets, self._seed, self._rank),
                batch_size=None,
                sampler=self._requests(first_step, progress_at),
                num_workers=self._workers,
                prefetch_factor=_PREFETCHED if self._workers else None,
                worker_init_fn=_prepare_worker if self._workers else None,
                multiprocessing_context=_WORKER_START if self._workers else None,
                pin_memory=self._pin_memory,
            )
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        first = self._datasets[0]
        return {
            "windows": [asdict(window) for window in self.windows],
            "end_share": self._end_share,
            "boxes": first.boxes,
            "points": first.points,
            "augmentation": asdict(first.augmentation),
            "photos": len(first.records),
        }

    def _requests(self, first_step: int, progress_at: Callable[[int], float]) -> Iterator[tuple[int, int]]:
        """Yield each step and the index of its size; runs in the training process, a few steps ahead."""
        shares = np.array([window.share for window in self.windows])
        for step in count(first_step):
            at_end = shares.copy()
            if len(shares) > 1 and progress_at(step) >= self._end_share:
                at_end[0] = 0.0
            random = np.random.default_rng((self._seed, step))
            yield step, int(random.choice(len(shares), p=at_end / at_end.sum()))


class _Steps(Dataset[WindowBatch]):
    """Batches by step and index of their size."""

    def __init__(self, datasets: Sequence[WindowDataset], seed: int, rank: int) -> None:
        self._datasets, self._seed, self._rank = datasets, seed, rank

    def __getitem__(self, request: tuple[int, int]) -> WindowBatch:
        step, index = request
        batch = self._datasets[index].batch(np.random.default_rng((self._seed, step, self._rank)))
        # In a worker, a thread of torch would copy the batch to shared memory, and abort if the worker ends meanwhile.
        return batch if get_worker_info() is None else batch.share_memory()


def _prepare_worker(_number: int) -> None:
    """Leave the process group: Ctrl-C and torchrun signal the whole group, but the run still needs its last batch."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
