"""All photos and masks of a run in two flat arrays of bytes, from which any window is sampled in one gather.

Photos differ in size, so they lie one behind the other; each is kept at full, half and quarter size, each mask, cut to
its box, down to an eighth. A window then reads the level next to its own scale, which is antialiasing at the price of
one bilinear look-up. The same arrays serve from a memory map on a CPU and from the memory of a GPU.

Letters: B windows, S side of a window in pixels, G masks a window.
"""

import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.training.data.annotations import PhotoRecord

PHOTO_LEVELS = 3
MASK_LEVELS = 4
MASK_ALIGNMENT = 1 << (MASK_LEVELS - 1)
MAX_SIDE = 640
"""Longer photos are stored reduced to it; one tap further up would hold four times the bytes."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Photos and masks. N photos, M masks, sorted by photo; offsets count pixels from the start of the flat array.

    Attributes:
        photos: (pixels, 3) uint8.
        masks: (pixels,) uint8, coverage 0..255.
        photo_offsets: (N, PHOTO_LEVELS) int64.
        photo_sizes: (N, 2) int64, (h, w).
        mask_ranges: (N, 2) int64, first mask of a photo and the one behind the last.
        mask_offsets: (M, MASK_LEVELS) int64.
        mask_boxes: (M, 4) int64, (y0, x0, h, w) of the stored piece, multiples of MASK_ALIGNMENT.
        mask_weights: (M,) float32, how often a mask is asked for.
        photo_weights: (N,) float32, how often a photo is taken; see `sampling`.
    """

    photos: Tensor
    masks: Tensor
    photo_offsets: Tensor
    photo_sizes: Tensor
    mask_ranges: Tensor
    mask_offsets: Tensor
    mask_boxes: Tensor
    mask_weights: Tensor
    photo_weights: Tensor

    def __len__(self) -> int:
        return len(self.photo_sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of pixels."""
        return self.photos.numel() + self.masks.numel()

    def to(self, device: torch.device) -> "Shelf":
        """The shelf in the memory of a device; what only chooses photos and masks stays where it is."""
        moved = {entry.name: getattr(self, entry.name).to(device) for entry in fields(self)}
        return Shelf(**moved | {"mask_ranges": self.mask_ranges, "photo_weights": self.photo_weights})

    def save(self, folder: Path) -> None:
        """Write it to a folder, which `open_shelf` maps back without reading it."""
        folder.mkdir(parents=True, exist_ok=True)
        for entry in fields(self):
            np.save(folder / f"{entry.name}.npy", getattr(self, entry.name).cpu().numpy())


def open_shelf(folder: Path) -> Shelf:
    """A shelf that `Shelf.save` wrote, as a memory map."""
    # Copy on write: torch wants arrays that it could write to, and nobody does.
    arrays = {entry.name: np.load(folder / f"{entry.name}.npy", mmap_mode="c") for entry in fields(Shelf)}
    return Shelf(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def build_shelf(
    records: Sequence[PhotoRecord],
    weights: Callable[[Sequence[PhotoRecord]], tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    max_side: int = MAX_SIDE,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Shelf:
    """Decode photos and masks and put them on a shelf.

    Args:
        records: what to decode.
        weights: of the photos (N,) and of all their masks (M,), see `sampling.weights`.
        max_side: longer photos are reduced to it, pixels.
        workers: processes that decode.
        progress: is told (photos done, photos in all).
    """
    single = functools.partial(_shelve_one, max_side=max_side)
    with ExitStack() as stack:
        if workers > 1:
            # Spawned: a fork of a process with torch's threads may hang.
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
            decoded = pool.map(single, records, chunksize=8)
        else:
            decoded = map(single, records)
        shelves = []
        for done, arrays in enumerate(decoded, start=1):
            shelves.append(Shelf(**{name: torch.from_numpy(array) for name, array in arrays.items()}))
            progress(done, len(records))
    photo_weights, mask_weights = (torch.from_numpy(values) for values in weights(records))
    return replace(join_shelves(shelves), photo_weights=photo_weights, mask_weights=mask_weights)


def shelve(
    pictures: Iterable[tuple[NDArray[np.uint8], Sequence[NDArray[np.uint8]]]],
    photo_weights: NDArray[np.float32],
    mask_weights: NDArray[np.float32],
) -> Shelf:
    """Put pictures (H, W, 3) with their masks, each (H, W) of 0 and 1, on a shelf."""
    photos, masks = _Pile(), _Pile()
    photo_sizes, mask_ranges = [], []
    mask_boxes: list[tuple[int, int, int, int]] = []
    for image, image_masks in pictures:
        photos.add(_pyramid(image, PHOTO_LEVELS))
        photo_sizes.append(image.shape[:2])
        first = len(mask_boxes)
        for mask in image_masks:
            box, piece = _piece(mask)
            masks.add(_pyramid(piece * np.uint8(255), MASK_LEVELS))
            mask_boxes.append(box)
        mask_ranges.append((first, len(mask_boxes)))
    return Shelf(
        photos=torch.from_numpy(photos.pixels((3,))),
        masks=torch.from_numpy(masks.pixels(())),
        photo_offsets=torch.tensor(photos.offsets),
        photo_sizes=torch.tensor(photo_sizes),
        mask_ranges=torch.tensor(mask_ranges),
        mask_offsets=torch.tensor(masks.offsets).reshape(-1, MASK_LEVELS),
        mask_boxes=torch.tensor(mask_boxes).reshape(-1, 4),
        mask_weights=torch.from_numpy(mask_weights),
        photo_weights=torch.from_numpy(photo_weights),
    )


def join_shelves(shelves: Sequence[Shelf]) -> Shelf:
    """Shelves one behind the other, as one."""
    photo_starts = _starts(len(shelf.photos) for shelf in shelves)
    mask_starts = _starts(len(shelf.masks) for shelf in shelves)
    first_masks = _starts(len(shelf.mask_boxes) for shelf in shelves)
    shifted = {
        "photo_offsets": [shelf.photo_offsets + start for shelf, start in zip(shelves, photo_starts, strict=True)],
        "mask_offsets": [shelf.mask_offsets + start for shelf, start in zip(shelves, mask_starts, strict=True)],
        "mask_ranges": [shelf.mask_ranges + first for shelf, first in zip(shelves, first_masks, strict=True)],
    }
    return Shelf(
        **{
            entry.name: torch.cat(shifted.get(entry.name, [getattr(shelf, entry.name) for shelf in shelves]))
            for entry in fields(Shelf)
        }
    )


def sample_photos(shelf: Shelf, chosen: Tensor, matrices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Windows of photos.

    Args:
        shelf: on any device.
        chosen: (B,) int64, which photos.
        matrices: (B, 2, 3), from (x, y, 1) of the window to (x, y) of the photo; pixel centres are at halves.
        size: S.

    Returns:
        (B, 3, S, S) float32 in 0..255, and whether the pixel lies in the photo, (B, 1, S, S) bool.
    """
    places = _places(matrices, size)  # (B, S, S, 2)
    level = _level(matrices, PHOTO_LEVELS)  # (B,)
    sizes = shelf.photo_sizes[chosen]  # (B, 2)
    offset = shelf.photo_offsets[chosen].gather(1, level[:, None])[:, 0]
    height, width = (_at_level(sizes[:, axis], level) for axis in (0, 1))
    x, y = places.unbind(-1)
    full_height, full_width = (sizes[:, axis, None, None].to(x.dtype) for axis in (0, 1))
    inside = (x >= 0) & (y >= 0) & (x < full_width) & (y < full_height)

    scale = (0.5 ** level.to(x.dtype))[:, None, None]
    x, y = x * scale - 0.5, y * scale - 0.5
    left, top = x.floor(), y.floor()
    pixels = torch.zeros((*x.shape, 3), device=x.device)
    last_x, last_y = (width - 1)[:, None, None], (height - 1)[:, None, None]
    for dy in (0, 1):
        for dx in (0, 1):
            column = (left.long() + dx).clamp(min=0).minimum(last_x)
            row = (top.long() + dy).clamp(min=0).minimum(last_y)
            share = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs())
            index = offset[:, None, None] + row * width[:, None, None] + column
            pixels += shelf.photos[index.reshape(-1)].reshape(pixels.shape).float() * share[..., None]
    return pixels.permute(0, 3, 1, 2), inside[:, None]


def sample_masks(shelf: Shelf, chosen: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Coverage of windows by masks.

    Args:
        shelf: on any device.
        chosen: (B, G) int64, which masks; -1 for none.
        matrices: (B, 2, 3) as in `sample_photos`, for a window of `size` pixels.
        size: S.

    Returns:
        (B, G, S, S) float32 in [0, 1].
    """
    places = _places(matrices, size)[:, None]  # (B, 1, S, S, 2)
    level = _level(matrices, MASK_LEVELS)[:, None].expand(chosen.shape)  # (B, G)
    exists = chosen >= 0
    index = chosen.clamp(min=0)
    offset = shelf.mask_offsets[index].gather(2, level[..., None])[..., 0]  # (B, G)
    boxes = shelf.mask_boxes[index]  # (B, G, 4)
    height = boxes[..., 2] >> level
    width = boxes[..., 3] >> level
    scale = (0.5 ** level.to(places.dtype))[..., None, None]
    x = (places[..., 0] - boxes[..., 1, None, None]) * scale - 0.5  # (B, G, S, S)
    y = (places[..., 1] - boxes[..., 0, None, None]) * scale - 0.5
    left, top = x.floor(), y.floor()
    coverage = torch.zeros_like(x)
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left.long() + dx, top.long() + dy
            inside = (column >= 0) & (row >= 0) & (column < width[..., None, None]) & (row < height[..., None, None])
            inside &= exists[..., None, None]
            share = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs())
            at = torch.where(inside, offset[..., None, None] + row * width[..., None, None] + column, 0)
            coverage += torch.where(inside, shelf.masks[at.reshape(-1)].reshape(at.shape).float() * share, 0.0)
    return coverage / 255.0


def _places(matrices: Tensor, size: int) -> Tensor:
    """(B, S, S, 2): where in the photo each pixel centre of a window lies."""
    centres = torch.arange(size, device=matrices.device, dtype=matrices.dtype) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (S, S, 3)
    return torch.einsum("bij,hwj->bhwi", matrices, grid)


def _level(matrices: Tensor, levels: int) -> Tensor:
    """(B,): the level whose pixels are next to a window's in size."""
    area = (matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]).abs()
    # A quarter level early: bilinear look-ups cope with a little reduction, and a blurred level is worse.
    level = (0.5 * area.log2() + 0.25).floor()
    return level.clamp(0, levels - 1).long()


def _at_level(length: Tensor, level: Tensor) -> Tensor:
    """Side of a photo at a level: halves round up, as `_pyramid` makes them."""
    return (length + (1 << level) - 1) >> level


def _starts(lengths: Iterable[int]) -> list[int]:
    """Where each of several things of these lengths begins when they lie one behind the other."""
    return list(itertools.accumulate(lengths, initial=0))[:-1]


class _Pile:
    def __init__(self) -> None:
        self.offsets: list[list[int]] = []
        self._parts: list[NDArray[np.uint8]] = []
        self._height = 0

    def add(self, levels: Iterable[NDArray[np.uint8]]) -> None:
        offsets = []
        for level in levels:
            offsets.append(self._height)
            self._parts.append(level.reshape(-1))
            self._height += level.shape[0] * level.shape[1]
        self.offsets.append(offsets)

    def pixels(self, channels: tuple[int, ...]) -> NDArray[np.uint8]:
        flat = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint8)
        self._parts.clear()
        return flat.reshape(-1, *channels)


def _pyramid(image: NDArray[np.uint8], levels: int) -> Iterator[NDArray[np.uint8]]:
    """The picture and its halves, each pixel the mean of four; an odd side repeats its last row or column."""
    for level in range(levels):
        if level > 0:
            height, width = image.shape[:2]
            if height % 2 or width % 2:
                image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE).astype(np.uint8)
            height, width = image.shape[:2]
            image = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA).astype(np.uint8)
        yield np.ascontiguousarray(image)


def _piece(mask: NDArray[np.uint8]) -> tuple[tuple[int, int, int, int], NDArray[np.uint8]]:
    """(y0, x0, h, w) and pixels of the part that holds the mask, its edges on multiples of MASK_ALIGNMENT."""
    x, y, width, height = cv2.boundingRect(mask)
    x0, y0 = (start // MASK_ALIGNMENT * MASK_ALIGNMENT for start in (x, y))
    x1, y1 = (-(-end // MASK_ALIGNMENT) * MASK_ALIGNMENT for end in (x + max(width, 1), y + max(height, 1)))
    piece = np.zeros((y1 - y0, x1 - x0), np.uint8)
    content = mask[y0:y1, x0:x1]
    piece[: content.shape[0], : content.shape[1]] = content
    return (y0, x0, y1 - y0, x1 - x0), piece


def _shelve_one(record: PhotoRecord, max_side: int) -> dict[str, NDArray[Any]]:
    """A photo's own shelf as arrays, which are cheaper to send between processes than tensors."""
    ones = np.ones(len(record.masks), np.float32)
    shelf = shelve([decode_photo(record, max_side)], np.ones(1, np.float32), ones)
    return {entry.name: getattr(shelf, entry.name).numpy() for entry in fields(Shelf)}


def decode_photo(record: PhotoRecord, max_side: int = MAX_SIDE) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """A photo (H, W, 3) and its masks (H, W), reduced to `max_side` where larger."""
    image, masks = record.image(), [mask.decode() for mask in record.masks]
    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return image, masks
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return reduced, [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8) for mask in masks]
