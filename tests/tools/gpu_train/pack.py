"""Packs photos and masks into small files for a GPU machine: `python tests/tools/gpu_train/pack.py --help`.

Photos are sampled by source, as in training, each at most once. So every pack is a good sample by itself, and further
packs only add variety.
"""

import argparse
import hashlib
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # instead of this folder

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tools.gpu_train.packs import PackedMask, PackedPhoto, encode_mask, write_pack  # noqa: E402

from model_store.training.data.annotations import PhotoRecord, read_annotations  # noqa: E402
from model_store.training.data.sampling import weights  # noqa: E402
from model_store.training.data.set_aside import set_aside_names, without_set_aside  # noqa: E402
from service.sam.transforms import input_size  # noqa: E402

# Measured: a run takes 0.8 bytes in the compressed archive, and the other data of a photo few bytes.
_BYTES_A_RUN, _BYTES_A_PHOTO = 1, 60
_ARCHIVE_BYTES = 4000


def main() -> None:
    """Write packs of photos to train on and one to validate on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", action="append", required=True, metavar="DATA", help="data set to train on; may be repeated"
    )
    parser.add_argument(
        "--validation", action="append", default=[], metavar="DATA", help="data set to validate on; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the packs")
    parser.add_argument("--packs", type=int, default=1, help="number of training packs; default: %(default)s")
    parser.add_argument(
        "--megabytes", type=float, default=16.5, help="megabytes of a training pack; default: %(default)s"
    )
    parser.add_argument(
        "--validation-megabytes", type=float, default=1.5, help="megabytes of the validation pack; default: %(default)s"
    )
    parser.add_argument(
        "--side", type=int, default=384, help="longest side of a photo, in pixels; default: %(default)s"
    )
    parser.add_argument("--quality", type=int, default=60, help="WebP quality of a reduced photo; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling of photos; default: %(default)s")
    chosen = parser.parse_args()

    everything = [record for source in chosen.data for record in read_annotations(source)]
    held_back = [record for source in chosen.validation for record in read_annotations(source)]
    held_back += [record for record in everything if record.path.name in set_aside_names()]
    size = _PackedSize(chosen.side, chosen.quality)
    chosen.out.mkdir(parents=True, exist_ok=True)
    left = deque(drawn(without_set_aside(everything), chosen.seed))
    for number in range(1, chosen.packs + 1):
        _write(chosen.out / f"train-{number}.npz", left, size, chosen.megabytes)
    shuffled = sorted(held_back, key=lambda record: hashlib.sha256(record.path.name.encode()).digest())
    _write(chosen.out / "validation.npz", deque(shuffled), size, chosen.validation_megabytes)


def drawn(records: Sequence[PhotoRecord], seed: int) -> list[PhotoRecord]:
    """Return photos in the order in which they are drawn by weight, without replacement.

    Source: Efraimidis and Spirakis 2006, exponential variables with the weights as rates.
    """
    photo_weights, _ = weights(records)
    keys = np.random.default_rng(seed).standard_exponential(len(records)) / photo_weights
    return [records[number] for number in np.argsort(keys)]


@dataclass(frozen=True, slots=True)
class _PackedSize:
    """Longest side of packed photos in pixels, and the WebP quality of those that are reduced."""

    side: int
    quality: int


def _packed(record: PhotoRecord, size: _PackedSize) -> PackedPhoto:
    """Return a photo as it is, or reduced with its masks; masks that become empty are dropped."""
    is_small = max(record.size) <= size.side
    height, width = record.size if is_small else input_size(record.size, size.side)
    if is_small and record.path.suffix.lower() == ".webp":
        file = record.path.read_bytes()
    else:
        pixels = cv2.resize(record.image(), (width, height), interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(
            ".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, size.quality]
        )
        assert done
        file = encoded.tobytes()
    masks = []
    for mask in record.masks:
        coverage = cv2.resize(mask.decode() * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
        reduced = np.asarray(coverage > 127, np.uint8)
        if reduced.any():
            rle = {"size": (height, width), "counts": encode_mask(reduced)}
            masks.append(PackedMask(rle, mask.kind, mask.votes))
    return PackedPhoto(Path(record.path.name), (height, width), record.source, masks=tuple(masks), file=file)


def _write(path: Path, left: deque[PhotoRecord], size: _PackedSize, megabytes: float) -> None:
    """Write as many of the remaining photos as fit, and remove them from the queue."""
    photos: list[PackedPhoto] = []
    free_bytes = megabytes * 1e6 - _ARCHIVE_BYTES
    while left:
        photo = _packed(left[0], size)
        runs = sum(len(mask.rle["counts"]) for mask in photo.masks)
        free_bytes -= len(photo.file) + _BYTES_A_RUN * runs + _BYTES_A_PHOTO
        if free_bytes < 0:
            break
        left.popleft()
        if photo.masks:
            photos.append(photo)
    if not photos:
        sys.exit(f"{path}: there is no photo left that fits into {megabytes:g} MB")
    write_pack(path, photos)
    common = ", ".join(f"{source} {count}" for source, count in Counter(one.source for one in photos).most_common(8))
    masks = sum(len(one.masks) for one in photos)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {len(photos)} photos, {masks} masks ({common}, …)")


if __name__ == "__main__":
    main()
