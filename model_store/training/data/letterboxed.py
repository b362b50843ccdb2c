"""Photos as distillation sees them: letterboxed, resized in floats, with boxes and clicks.

Source: docs/explanation/model.md, sections 1.2 and 7.4.

No augmentation: the teacher's features belong to these very pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from model_store.network.frames import resize_float
from model_store.network.model import PIXEL_MEAN, PIXEL_STD
from model_store.training.data.annotations import MaskRecord, PhotoRecord
from service.sam.transforms import Size, input_size


@dataclass(frozen=True, slots=True)
class LetterboxedPhoto:
    """One photo, resized and padded into the frame.

    Attributes:
        place: of its record in the list.
        frame: (3, S, S) float32, normalised, then padded with 0.
        input_size: (h, w) of the photo in the frame.
        boxes: (n, 4) float32, x0, y0, x1, y1 in the frame.
        clicks: (n, 2) float32, one in each mask.
    """

    place: int
    frame: Tensor
    input_size: Size
    boxes: Tensor
    clicks: Tensor


@dataclass(frozen=True, slots=True)
class LetterboxedBatch:
    """B photos with P prompts in all.

    Attributes:
        places: of the records, B.
        frames: (B, 3, S, S) float32.
        valid: (B, 1, S, S) float32, 1 inside the photos.
        pictures: (P,) int64, the photo of each prompt.
        boxes: (P, 4) float32.
        clicks: (P, 2) float32.
    """

    places: list[int]
    frames: Tensor
    valid: Tensor
    pictures: Tensor
    boxes: Tensor
    clicks: Tensor

    def to(self, device: torch.device) -> "LetterboxedBatch":
        """The batch in the memory of a device."""
        frames = self.frames.to(device, memory_format=torch.channels_last)
        rest = (tensor.to(device) for tensor in (self.valid, self.pictures, self.boxes, self.clicks))
        return LetterboxedBatch(self.places, frames, *rest)


def letterboxed(
    record: PhotoRecord, frame_size: int, masks: Sequence[MaskRecord] = (), place: int = 0
) -> LetterboxedPhoto:
    """A photo resized and padded into the frame, with prompts for some of its masks."""
    size = input_size(record.size, frame_size)
    pixels = resize_float(record.image(), frame_size)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    frame = functional.pad((pixels - mean) / std, (0, frame_size - size[1], 0, frame_size - size[0]))
    scale = np.array([size[1] / record.size[1], size[0] / record.size[0]])
    boxes = np.array([mask.box for mask in masks]).reshape(-1, 4) * np.tile(scale, 2)
    clicks = np.array([mask.click or _inner_pixel(mask.decode()) for mask in masks]).reshape(-1, 2) * scale
    return LetterboxedPhoto(
        place, frame, size, torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(clicks.astype(np.float32))
    )


def collate(photos: Sequence[LetterboxedPhoto]) -> LetterboxedBatch:
    """Photos of one frame size as a batch."""
    frames = torch.stack([photo.frame for photo in photos])
    valid = torch.zeros(len(photos), 1, *frames.shape[2:])
    for row, photo in enumerate(photos):
        valid[row, :, : photo.input_size[0], : photo.input_size[1]] = 1.0
    counts = torch.tensor([len(photo.boxes) for photo in photos])
    return LetterboxedBatch(
        places=[photo.place for photo in photos],
        frames=frames,
        valid=valid,
        pictures=torch.arange(len(photos)).repeat_interleave(counts),
        boxes=torch.cat([photo.boxes for photo in photos]),
        clicks=torch.cat([photo.clicks for photo in photos]),
    )


class LetterboxedPhotos(Dataset[LetterboxedPhoto]):
    """Photos by place, each time with another choice of at most `max_prompts` masks.

    Args:
        records: what to read.
        frame_size: S, pixels.
        max_prompts: of a photo; drawn with replacement where it has more masks, as EdgeSAM does.
        seed: together with place and draw it decides the choice, in whichever process it is made.
    """

    def __init__(self, records: Sequence[PhotoRecord], frame_size: int, *, max_prompts: int, seed: int) -> None:
        self._records, self._frame_size = records, frame_size
        self._max_prompts, self._seed = max_prompts, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, place: int) -> LetterboxedPhoto:
        record = self._records[place]
        masks = list(record.masks)
        if len(masks) > self._max_prompts:
            # torch's seed of this moment: every worker and every epoch has another, the same run the same ones.
            random = np.random.default_rng((self._seed, place, torch.initial_seed() % 2**32))
            masks = [masks[index] for index in random.integers(0, len(masks), self._max_prompts)]
        return letterboxed(record, self._frame_size, masks, place)


def endless_batches(
    photos: LetterboxedPhotos, batch: int, *, workers: int, seed: int, rank: int = 0
) -> Iterator[LetterboxedBatch]:
    """Batches in random order for as long as they are asked for, read by several processes ahead of time.

    Args:
        photos: what to read.
        batch: photos of a batch.
        workers: processes that read; 0 reads in this one.
        seed: of the order.
        rank: of this process among those of the run; each has an order of its own.
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
    """A pixel deep inside a mask, (x, y)."""
    import cv2  # noqa: PLC0415 - a worker that never needs it starts faster

    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)
