"""Letterboxed photos for distillation: resized in floats and padded, with box and point prompts.

Source: docs/explanation/model.md, sections 1.2 and 7.4.

There is no augmentation, since the teacher's features are for exactly these pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from model_store.network.frames import resize_float
from model_store.training.data.annotations import MaskRecord, PhotoRecord
from service.sam.transforms import Size, input_size


@dataclass(frozen=True, slots=True)
class LetterboxedPhoto:
    """One photo, resized and padded into the frame.

    Attributes:
        index: Index of the photo's record in the list.
        frame: Frame, (3, S, S) float32, normalised, then padded with 0.
        input_size: Height and width of the photo in the frame, in pixels.
        boxes: Boxes of the masks, (n, 4) float32, x0, y0, x1, y1 in the frame.
        points: One point (x, y) inside each mask, (n, 2) float32, in the frame.
    """

    index: int
    frame: Tensor
    input_size: Size
    boxes: Tensor
    points: Tensor


@dataclass(frozen=True, slots=True)
class LetterboxedBatch:
    """B photos with P prompts in all.

    Attributes:
        indices: Indices of the photos' records, B of them.
        frames: Frames, (B, 3, S, S) float32.
        valid: Pixels inside the photos, (B, 1, S, S) float32, 1 or 0.
        image_index: Index within the batch of each prompt's photo, (P,) int64.
        boxes: Box prompts, (P, 4) float32, in the frame.
        points: Point prompts, (P, 2) float32, in the frame.
    """

    indices: list[int]
    frames: Tensor
    valid: Tensor
    image_index: Tensor
    boxes: Tensor
    points: Tensor

    def to(self, device: torch.device) -> "LetterboxedBatch":
        """Return the batch on a device."""
        frames = self.frames.to(device, memory_format=torch.channels_last)
        rest = (tensor.to(device) for tensor in (self.valid, self.image_index, self.boxes, self.points))
        return LetterboxedBatch(self.indices, frames, *rest)


def letterboxed(
    record: PhotoRecord, frame_size: int, masks: Sequence[MaskRecord] = (), index: int = 0
) -> LetterboxedPhoto:
    """Return a photo resized and padded into the frame, with prompts for some of its masks.

    Args:
        record: Photo to read.
        frame_size: Side of the frame, S, in pixels.
        masks: Masks that get a box and a point each.
        index: Index of the record in the list.
    """
    size = input_size(record.size, frame_size)
    pixels = resize_float(record.image(), frame_size)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    frame = functional.pad((pixels - mean) / std, (0, frame_size - size[1], 0, frame_size - size[0]))
    scale = np.array([size[1] / record.size[1], size[0] / record.size[0]])
    boxes = np.array([mask.box for mask in masks]).reshape(-1, 4) * np.tile(scale, 2)
    points = np.array([mask.click or _inner_pixel(mask.decode()) for mask in masks]).reshape(-1, 2) * scale
    return LetterboxedPhoto(
        index, frame, size, torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(points.astype(np.float32))
    )


def collate(photos: Sequence[LetterboxedPhoto]) -> LetterboxedBatch:
    """Return photos of one frame size as a batch."""
    frames = torch.stack([photo.frame for photo in photos])
    valid = torch.zeros(len(photos), 1, *frames.shape[2:])
    for row, photo in enumerate(photos):
        valid[row, :, : photo.input_size[0], : photo.input_size[1]] = 1.0
    counts = torch.tensor([len(photo.boxes) for photo in photos])
    return LetterboxedBatch(
        indices=[photo.index for photo in photos],
        frames=frames,
        valid=valid,
        image_index=torch.arange(len(photos)).repeat_interleave(counts),
        boxes=torch.cat([photo.boxes for photo in photos]),
        points=torch.cat([photo.points for photo in photos]),
    )


class LetterboxedPhotos(Dataset[LetterboxedPhoto]):
    """Letterboxed photos by index, each time with another choice of at most `max_prompts` masks.

    Args:
        records: Photos to read.
        frame_size: Side of the frame, S, in pixels.
        max_prompts: Largest number of prompts of a photo. Masks are drawn with replacement where there are more, as in
            EdgeSAM.
        seed: Seed of the choice, used together with the photo's index and torch's own seed.
    """

    def __init__(self, records: Sequence[PhotoRecord], frame_size: int, *, max_prompts: int, seed: int) -> None:
        self._records, self._frame_size = records, frame_size
        self._max_prompts, self._seed = max_prompts, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> LetterboxedPhoto:
        record = self._records[index]
        masks = list(record.masks)
        if len(masks) > self._max_prompts:
            # torch's seed differs between workers and epochs, and is the same in a repeated run.
            random = np.random.default_rng((self._seed, index, torch.initial_seed() % 2**32))
            masks = [masks[index] for index in random.integers(0, len(masks), self._max_prompts)]
        return letterboxed(record, self._frame_size, masks, index)


def endless_batches(
    photos: LetterboxedPhotos, batch: int, *, workers: int, seed: int, rank: int = 0
) -> Iterator[LetterboxedBatch]:
    """Yield batches in random order without end, read ahead of time by loader workers.

    Args:
        photos: Photos to read.
        batch: Number of photos of a batch.
        workers: Number of processes that read; 0 reads in this process.
        seed: Seed of the order.
        rank: Rank of this process in the run; each rank has its own order.
    """
    generator = torch.Generator().manual_seed(seed * 1000 + rank)
    while True:
        yield from DataLoader(
            photos,
            batch_size=batch,
            sampler=RandomSampler(photos, replacement=True, num_samples=batch * 256, generator=generator),
            num_workers=workers,
            collate_fn=collate,
            generator=generator,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=False,
        )


def _inner_pixel(mask: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the pixel (x, y) that is deepest inside a mask."""
    import cv2  # noqa: PLC0415 - a worker that never needs it starts faster

    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)
