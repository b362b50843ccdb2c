"""Batches of windows of the served frame with prompts and targets, made on the CPU by loader workers.

Letters: B windows of a batch, S side of a window in frame pixels (256, 512 or 1024 of the 1024 frame), s = S/4 side of
the decoder's logits, n prompts of a window, boxes first.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.errors import ModelStoreError
from model_store.training.data.annotated_images import UnreadablePhoto, read_image
from model_store.training.data.annotations import AnnotationError, PhotoRecord
from model_store.training.data.sampling import weights
from model_store.training.data.windows.augmentation import Augmentation
from model_store.training.data.windows.copy_paste import cut_out, donor_numbers, paste
from model_store.training.data.windows.cutting import Window, cut_window
from model_store.training.data.windows.synthetic_scenes import synthetic_scene
from service.sam.transforms import FRAME_SIZE

_SIDE_STEP = 64  # pixels; every encoder accepts multiples of it
_MAX_EMPTY_DRAWS = 1000  # draws in a row without a window after which the data counts as unusable


@dataclass(frozen=True, slots=True)
class WindowSize:
    """One size of windows in a run.

    Args:
        pixels: Side of the window, S, in frame pixels, a multiple of 64 up to 1024.
        batch: Number of windows of a batch.
        share: Relative frequency of this size among the sizes.

    Raises:
        ValueError: A value is out of its range.
    """

    pixels: int
    batch: int
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.pixels % _SIDE_STEP or not _SIDE_STEP <= self.pixels <= FRAME_SIZE:
            raise ValueError(f"A window's side is a multiple of {_SIDE_STEP} up to {FRAME_SIZE}, not {self.pixels}.")
        if self.batch < 1:
            raise ValueError(f"A batch has at least one window, not {self.batch}.")
        if not 0.0 < self.share < float("inf"):
            raise ValueError(f"The share of a window size is a positive number, not {self.share}.")


def parse_windows(text: str) -> tuple[WindowSize, ...]:
    """Parse the window sizes of a run: ``256:6:0.60,512:2:0.25,1024:1:0.15``.

    Args:
        text: Sizes separated by commas, each as side:batch:share.

    Raises:
        ModelStoreError: The text is no such list; the message names the problem and the format.
    """
    sizes = []
    for part in text.split(","):
        try:
            side, batch, share = part.split(":")
            sizes.append(WindowSize(int(side), int(batch), float(share)))
        except ValueError as error:
            raise ModelStoreError(
                f"'{part}' is no window size ({error}) Write side:batch:share, for example 256:6:0.60,1024:1:0.40."
            ) from error
    sides = [size.pixels for size in sizes]
    if len(set(sides)) < len(sides):
        raise ModelStoreError(f"'{text}' names a window size twice. Write each side once.")
    return tuple(sizes)


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """B windows of one size.

    Attributes:
        frames: Pixels, (B, 3, S, S) uint8 RGB, not normalised, arbitrary outside the photo.
        inside: Coverage by the photo, (B, S/2, S/2) uint8, 0 to 255.
        targets: Coverage by the targets, (B, n, 3, s, s) uint8, 0 to 255: the mask that is meant, and the largest and
            the smallest other one under a point.
        has_target: Whether each target exists, (B, n, 3) bool.
        boxes: Boxes, (B, boxes, 4) float32, x0, y0, x1, y1 in window pixels: prompts 0 to boxes - 1.
        points: Points, (B, points, 2) float32, x and y in window pixels, 0 at the centre of the first pixel: the other
            prompts.
        origins: Position (x, y) of each window in the frame, (B, 2) int64, in image tokens of 16 frame pixels.
    """

    frames: Tensor
    inside: Tensor
    targets: Tensor
    has_target: Tensor
    boxes: Tensor
    points: Tensor
    origins: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "WindowBatch":
        """Return the batch on a device."""
        moved = (tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors())
        return WindowBatch(*moved)

    def pin_memory(self) -> "WindowBatch":
        """Return the batch in page-locked memory; a DataLoader with ``pin_memory`` calls this."""
        return WindowBatch(*(tensor.pin_memory() for tensor in self._tensors()))

    def share_memory(self) -> "WindowBatch":
        """Return the batch in memory that other processes can map."""
        return WindowBatch(*(tensor.share_memory_() for tensor in self._tensors()))  # type: ignore[no-untyped-call]  # of torch

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, entry.name) for entry in fields(self)]


class SkippedPhotoWarning(UserWarning):
    """A photo cannot be read and is skipped in this run."""


class WindowDataset:
    """Makes batches of windows of one size.

    Only random numbers determine the content of a batch, so any process can make it. A photo that cannot be read is
    skipped from then on, with a warning that counts such photos.

    Args:
        records: Photos with masks.
        window: Side of the windows and their number in a batch.
        boxes: Number of box prompts of a window.
        points: Number of point prompts of a window.
        augmentation: Augmentation of windows.

    Raises:
        ValueError: There is no photo, a photo without masks, or no prompt.
    """

    def __init__(
        self,
        records: Sequence[PhotoRecord],
        window: WindowSize,
        *,
        boxes: int,
        points: int,
        augmentation: Augmentation,
    ) -> None:
        if not records or not all(record.masks for record in records):
            raise ValueError("Windows are cut from photos that have at least one mask each.")
        if boxes < 0 or points < 0 or boxes + points < 1:
            raise ValueError(f"A window has at least one prompt, not {boxes} boxes and {points} points.")
        self.records, self.window, self.augmentation = records, window, augmentation
        self.boxes, self.points = boxes, points
        photo_weights, mask_weights = weights(records, objects_bias=augmentation.objects_bias)
        self._mask_weights = np.split(mask_weights, np.cumsum([len(record.masks) for record in records])[:-1])
        self._sampler = _PhotoSampler(photo_weights, donor_numbers(records))

    def batch(self, random: np.random.Generator) -> WindowBatch:
        """Make a batch.

        Args:
            random: Generator of all random choices; the result also depends on photos that were skipped before.

        Raises:
            AnnotationError: No photo can be read, or too few have a mask that is large enough.
        """
        windows = self._windows(random)
        return _collate([next(windows) for _ in range(self.window.batch)])

    def _windows(self, random: np.random.Generator) -> Iterator[Window]:
        """Yield windows without end; photos that cannot be read are skipped from then on."""
        sampler = self._sampler
        empty_draws = 0
        while True:
            try:
                window = self._draw_window(sampler, random)
            except UnreadablePhoto as error:
                left = sampler.exclude([i for i, record in enumerate(self.records) if record.path == error.path])
                count = len(self.records) - left
                if left == 0:
                    raise AnnotationError(f"None of {count} photos can be read. The last one: {error}") from error
                warnings.warn(
                    f"{error}. It is skipped, as photo {count} of {len(self.records)}.", SkippedPhotoWarning, 1
                )
                continue
            if window is not None:
                empty_draws = 0
                yield window
                continue
            empty_draws += 1
            if empty_draws >= _MAX_EMPTY_DRAWS:
                raise AnnotationError(
                    f"{empty_draws} windows in a row showed no mask that is large enough. Masks have to cover "
                    f"a few hundred pixels of a frame of {FRAME_SIZE}."
                )

    def _draw_window(self, sampler: "_PhotoSampler", random: np.random.Generator) -> Window | None:
        """Draw a window of a photo or synthetic scene; None where it shows no mask that is large enough."""
        augmentation = self.augmentation
        if random.random() < augmentation.synthetic:
            image = synthetic_scene(random)
        else:
            number = sampler.photo(random)
            image = read_image(self.records[number], self._mask_weights[number])
            if sampler.has_donors and random.random() < augmentation.pasted:
                cutout = cut_out(self.records[sampler.donor(random)], random)
                image = (cutout and paste(image, cutout, random)) or image
        return cut_window(
            image, self.window.pixels, boxes=self.boxes, points=self.points, augmentation=augmentation, random=random
        )


class _PhotoSampler:
    """Draws photos by weight, and donors of objects to paste.

    Args:
        photo_weights: Relative frequency of each photo, (N,).
        donors: Numbers of the photos that have an object to cut out; all are equally likely, for variety.
    """

    def __init__(self, photo_weights: NDArray[np.float32], donors: NDArray[np.int64]) -> None:
        self._weights = photo_weights.astype(np.float64)
        self._sums = self._weights.cumsum()
        self._donors = donors

    @property
    def has_donors(self) -> bool:
        return len(self._donors) > 0

    def photo(self, random: np.random.Generator) -> int:
        """Draw the number of a photo by weight."""
        return int(np.searchsorted(self._sums, random.random() * self._sums[-1], side="right"))

    def donor(self, random: np.random.Generator) -> int:
        """Draw the number of a photo that has an object to cut out."""
        return int(random.choice(self._donors))

    def exclude(self, numbers: Sequence[int]) -> int:
        """Exclude photos from all later draws, and return the number of photos that are left."""
        self._weights[numbers] = 0.0
        self._sums = self._weights.cumsum()
        self._donors = self._donors[self._weights[self._donors] > 0]
        return int(np.count_nonzero(self._weights))


def _collate(windows: Sequence[Window]) -> WindowBatch:
    side = windows[0].frame.shape[0]
    frames = np.empty((len(windows), 3, side, side), np.uint8)
    for row, window in enumerate(windows):
        frames[row] = window.frame.transpose(2, 0, 1)
    prompts = [window.prompts for window in windows]
    return WindowBatch(
        frames=torch.from_numpy(frames),
        inside=_stacked([window.inside for window in windows]),
        targets=_stacked([one.targets for one in prompts]),
        has_target=_stacked([one.has_target for one in prompts]),
        boxes=_stacked([one.boxes for one in prompts]),
        points=_stacked([one.points for one in prompts]),
        origins=torch.tensor([window.origin for window in windows]),
    )


def _stacked(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
