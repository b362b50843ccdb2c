"""Packs: some photos and their masks in one small NumPy archive, read without Pillow and pycocotools.

An archive has N photos with M masks and R runs in all, in the order of the photos:

| array | type | content |
|---|---|---|
| `names` | (N,) str | file names |
| `sources` | (N,) str | data sets |
| `sizes` | (N, 2) uint16 | height and width, pixels |
| `images` | (bytes,) uint8 | all WebP files, one after the other |
| `image_lengths` | (N,) uint32 | bytes of each file |
| `mask_counts` | (N,) uint16 | masks of each photo |
| `kinds` | (M,) str | kinds of the masks |
| `votes` | (M,) uint16 | number of annotators that drew each mask |
| `runs` | (R,) uint32 | run lengths of all masks, column by column: background, mask, background, … |
| `run_counts` | (M,) uint32 | runs of each mask |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import AnnotationError, MaskRecord, PhotoRecord

Bytes = NDArray[np.uint8]
Runs = NDArray[np.uint32]


def encode_mask(mask: Bytes) -> Runs:
    """Return the run lengths of a mask (H, W) of 0 and 1."""
    values = mask.T.ravel()
    ends = np.flatnonzero(np.diff(values, append=1 - values[-1:])) + 1
    runs = np.diff(ends, prepend=0)
    return (runs if values[0] == 0 else np.concatenate([[0], runs])).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class PackedMask(MaskRecord):
    """A mask whose `rle` has run lengths as an array, COCO's uncompressed form."""

    def decode(self) -> Bytes:
        """Return the mask, (H, W), 0 and 1."""
        height, width = self.rle["size"]
        runs = self.rle["counts"]
        values = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs)
        return values.reshape(width, height).T

    @property
    def area(self) -> int:
        """Area, in pixels."""
        return int(self.rle["counts"][1::2].sum())

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Box as x0, y0, x1, y1 in pixels, exclusive at the end."""
        height, _ = self.rle["size"]
        ends = np.cumsum(self.rle["counts"], dtype=np.int64)
        starts, ends = ends[0:-1:2], ends[1::2]  # of the runs that are mask
        if len(starts) == 0:
            return 0.0, 0.0, 0.0, 0.0
        (first, top), (last, bottom) = np.divmod(starts, height), np.divmod(ends - 1, height)
        y0, y1 = (0, height) if (first != last).any() else (top.min(), bottom.max() + 1)
        return float(first[0]), float(y0), float(last[-1] + 1), float(y1)


@dataclass(frozen=True, slots=True)
class PackedPhoto(PhotoRecord):
    """A photo whose WebP file is in memory."""

    file: bytes = b""

    def image(self, *, max_side: int | None = None) -> Bytes:
        """Return the pixels, (H, W, 3) RGB. Packed photos are small, so `max_side` changes nothing."""
        pixels = cv2.imdecode(np.frombuffer(self.file, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None or pixels.shape[:2] != self.size:
            raise AnnotationError(f"{self.path} is not an image of {self.size} pixels that OpenCV can read")
        return pixels


def write_pack(path: Path, photos: Sequence[PackedPhoto]) -> None:
    """Write photos as one archive."""
    masks = [mask for photo in photos for mask in photo.masks]
    runs = [mask.rle["counts"] for mask in masks]
    np.savez_compressed(
        path,
        names=[photo.path.name for photo in photos],
        sources=[photo.source for photo in photos],
        sizes=np.array([photo.size for photo in photos], np.uint16),
        images=np.frombuffer(b"".join(photo.file for photo in photos), np.uint8),
        image_lengths=np.array([len(photo.file) for photo in photos], np.uint32),
        mask_counts=np.array([len(photo.masks) for photo in photos], np.uint16),
        kinds=[mask.kind for mask in masks],
        votes=np.array([mask.votes for mask in masks], np.uint16),
        runs=np.concatenate(runs),
        run_counts=np.array([len(one) for one in runs], np.uint32),
    )


def read_packs(paths: Iterable[Path]) -> list[PackedPhoto]:
    """Return the photos of some packs."""
    return [photo for path in paths for photo in _read_pack(path)]


def _read_pack(path: Path) -> list[PackedPhoto]:
    with np.load(path) as file:
        pack = {name: file[name] for name in file.files}
    sizes = [(int(height), int(width)) for height, width in pack["sizes"]]
    files = np.split(pack["images"], np.cumsum(pack["image_lengths"])[:-1])
    runs = np.split(pack["runs"], np.cumsum(pack["run_counts"])[:-1])
    photo_of_mask = np.repeat(np.arange(len(sizes)), pack["mask_counts"])
    masks: list[list[PackedMask]] = [[] for _ in sizes]
    for number, counts, kind, votes in zip(photo_of_mask, runs, pack["kinds"], pack["votes"], strict=True):
        masks[number].append(PackedMask({"size": sizes[number], "counts": counts}, str(kind), int(votes)))
    return [
        PackedPhoto(Path(str(name)), size, str(source), masks=tuple(of_photo), file=bytes(data))
        for name, size, source, of_photo, data in zip(pack["names"], sizes, pack["sources"], masks, files, strict=True)
    ]
