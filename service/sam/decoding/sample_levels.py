"""Conversion of samples to the 256 grey levels of an RGB image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import InvalidRequest, UndecodableImage
from service.sam.decoded_image import AppliedLevels, Levels, ReadOptions

# Data whose largest sample is below this share of white are stretched by `auto`: cameras and satellites put 10 to 14
# bits into 16.
_DARK_SHARE: Final = 0.25
_PERCENTILES: Final = (2.0, 98.0)
# A few bright or dead pixels of a sensor would make everything else dark or pale. Where they widen the range of nearly
# all samples by more than this factor, `auto` takes percentiles. Click masks of photos of 12 bits in 16 had an IoU of
# 0.98 with those of the photos in 8 bits by the extremes, and 0.95 by percentiles; with four bright pixels
# 0.76 and 0.95.
_NEARLY_ALL: Final = (0.1, 99.9)
_OUTLIER_FACTOR: Final = 2.0
# Samples among which percentiles of large numbers and floats are searched: a few ten milliseconds.
_MAX_SORTED: Final = 1 << 21
# Rows that are converted together, so that the intermediate numbers stay small.
_BLOCK_SAMPLES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LevelRange:
    """The samples that become black and white.

    Args:
        black: Sample that becomes 0; smaller ones do, too.
        white: Sample that becomes 255; larger ones do, too.
        levels: How the two were chosen.
    """

    black: float
    white: float
    levels: AppliedLevels


def level_range(samples: NDArray[Any], levels: Levels, *, full: tuple[float, float]) -> LevelRange:
    """Return the range of samples for levels that were asked for.

    Args:
        samples: Samples of all bands that are used, real numbers of any type and shape.
        levels: Levels as the client asks for them.
        full: Samples that are black and white by the type of the file.

    Raises:
        UndecodableImage: No sample is a finite number, so that none is the smallest.
    """
    if levels == "auto":
        levels = _automatic(samples, full[1])
    if levels == "full":
        return LevelRange(*full, "full")
    if levels == "percentile":
        return LevelRange(*_percentiles(samples), "percentile")
    return LevelRange(*_extremes(samples), "minmax")


def grey_levels(samples: NDArray[Any], chosen: LevelRange) -> NDArray[np.uint8]:
    """Return samples as grey levels, rounded. NaN becomes black, and infinite samples black or white by their sign.

    Args:
        samples: Real numbers of any type, (H, ...).
        chosen: Samples that become black and white.
    """
    convert = _by_table(samples.dtype, chosen) if samples.dtype.itemsize <= 2 and samples.dtype.kind in "ui" else None
    levels = np.empty(samples.shape, np.uint8)
    rows = max(1, _BLOCK_SAMPLES // max(1, samples[0].size))
    for top in range(0, len(samples), rows):
        block = samples[top : top + rows]
        levels[top : top + rows] = _computed(block, chosen) if convert is None else convert(block)
    return levels


def with_options(image: Image.Image, options: ReadOptions) -> tuple[Image.Image, AppliedLevels]:
    """Return an 8-bit image with the bands and levels that were asked for, and the levels that were applied.

    Args:
        image: Image of mode RGB.
        options: How the samples are read.

    Raises:
        InvalidRequest: A band is none of the three.
    """
    if options.bands is not None:
        check_bands(options.bands, 3)
        channels = image.split()
        image = Image.merge("RGB", [channels[band - 1] for band in options.bands])
    if options.levels in ("auto", "full"):
        return image, "full"
    counts = np.array(image.histogram()).reshape(3, 256).sum(axis=0)
    if options.levels == "percentile":
        chosen = LevelRange(*_percentiles_of(counts), "percentile")
    else:
        chosen = LevelRange(*_extremes_of(counts), "minmax")
    return image.point(_computed(np.arange(256), chosen).tolist() * 3), chosen.levels


def check_bands(bands: tuple[int, int, int], count: int) -> None:
    """Refuse bands that an image does not have.

    Args:
        bands: Numbers of bands, from 1.
        count: Number of bands of the image.

    Raises:
        InvalidRequest: A number is larger than `count`.
    """
    if max(bands) > count:
        raise InvalidRequest(
            f"bands={','.join(map(str, bands))} names a band that the image does not have. It has {count}.",
            extra={"errors": [{"where": "/bands", "message": f"the image has {count} bands."}], "limit": count},
        )


def _automatic(samples: NDArray[Any], white: float) -> AppliedLevels:
    """Return the levels for samples that are unsigned numbers up to `white`."""
    if samples.dtype.kind != "u" or white <= np.iinfo(np.uint8).max:
        return "full"
    smallest, largest = _extremes(samples)
    if largest >= _DARK_SHARE * (white + 1):
        return "full"
    low, high = _percentiles(samples, _NEARLY_ALL)
    return "percentile" if largest - smallest > _OUTLIER_FACTOR * (high - low) > 0 else "minmax"


def _by_table(dtype: "np.dtype[Any]", chosen: LevelRange) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Return a function that converts samples of one or two bytes, in a fifth of the time of the arithmetic."""
    limits = np.iinfo(dtype)
    # Negative numbers lie behind the others in the unsigned order.
    table = np.roll(_computed(np.arange(limits.min, limits.max + 1), chosen), limits.min)
    return lambda samples: np.asarray(table[samples.view(f"u{dtype.itemsize}")])


def _computed(samples: NDArray[Any], chosen: LevelRange) -> NDArray[np.uint8]:
    with np.errstate(all="ignore"):
        width = chosen.white - chosen.black
        shares = (samples.astype(np.float64) - chosen.black) * (255.0 / width if width > 0.0 else 0.0)
    return np.asarray(np.rint(np.clip(np.nan_to_num(shares, nan=0.0, posinf=255.0, neginf=0.0), 0.0, 255.0)), np.uint8)


def _extremes(samples: NDArray[Any]) -> tuple[float, float]:
    if samples.dtype.kind != "f":
        return float(samples.min()), float(samples.max())
    black, white = np.inf, -np.inf
    for block in _blocks(samples):
        finite = block[np.isfinite(block)]
        if finite.size:
            black, white = min(black, float(finite.min())), max(white, float(finite.max()))
    if black > white:
        raise UndecodableImage("All samples of the image are NaN or infinite; send an image with finite samples.")
    return black, white


def _percentiles(samples: NDArray[Any], percents: tuple[float, float] = _PERCENTILES) -> tuple[float, float]:
    if samples.dtype.kind == "u" and samples.dtype.itemsize <= 2:
        counts = np.zeros(1 << 16, np.int64)
        for block in _blocks(samples):
            counts += np.bincount(block, minlength=counts.size)
        return _percentiles_of(counts, percents)
    step = -(-samples.size // _MAX_SORTED)
    some = samples.reshape(-1)[::step]
    some = some[np.isfinite(some)] if some.dtype.kind == "f" else some
    if not some.size:
        return _extremes(samples)
    black, white = np.percentile(some.astype(np.float64), percents)
    return float(black), float(white)


def _percentiles_of(counts: NDArray[Any], percents: tuple[float, float] = _PERCENTILES) -> tuple[float, float]:
    """Return the percentiles from the number of samples of each value."""
    below = np.cumsum(counts)
    black, white = (int(np.searchsorted(below, below[-1] * percent / 100.0)) for percent in percents)
    return float(black), float(white)


def _extremes_of(counts: NDArray[Any]) -> tuple[float, float]:
    present = np.flatnonzero(counts)
    return float(present[0]), float(present[-1])


def _blocks(samples: NDArray[Any]) -> list[NDArray[Any]]:
    flat = samples.reshape(-1)
    return [flat[start : start + _BLOCK_SAMPLES] for start in range(0, flat.size, _BLOCK_SAMPLES)]
