"""Colour jitter of a window by one matrix, and degradation as in users' images: blur, compression, noise."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# Largest changes at strength 1, as factors around 1, and of brightness in levels.
_SATURATION, _CONTRAST, _CHANNEL, _BRIGHTNESS = 0.4, 0.3, 0.08, 25.0
_JPEG_QUALITY = (20, 80)
_NOISE = (2.0, 12.0)  # standard deviation, in levels
_REDUCTION = 4.0  # largest loss of resolution, as a factor


def colour_jittered(window: Bytes, strength: float, random: np.random.Generator, *, is_grey: bool) -> Bytes:
    """Return a window (S, S, 3) with changed colours.

    Saturation, contrast, channel gains and brightness are composed to one affine map of RGB. That takes a twentieth of
    the time of separate steps in floats.

    Args:
        window: Window in RGB.
        strength: Strength of the changes; 0 changes nothing, 1 is the default of training.
        random: Generator of the random choices.
        is_grey: Whether the result is grey.
    """
    saturation, contrast, *gains, brightness = random.uniform(-strength, strength, 6)
    colourful = 0.0 if is_grey else 1.0 + _SATURATION * saturation
    mix = colourful * np.eye(3) + (1.0 - colourful) / 3.0 * np.ones((3, 3))
    factor = 1.0 + _CONTRAST * contrast
    mean_level = float(np.mean(cv2.mean(window)[:3]))  # centre of the contrast change
    linear = np.diag(1.0 + _CHANNEL * np.array(gains)) @ (factor * mix)
    offset = (1.0 + _CHANNEL * np.array(gains)) * (1.0 - factor) * mean_level + _BRIGHTNESS * brightness
    matrix = np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)
    return np.asarray(cv2.transform(window, matrix), np.uint8)


def degraded(window: Bytes, random: np.random.Generator) -> Bytes:
    """Return a window (S, S, 3) with the quality of a smaller image, plus one of compression, noise and blur.

    Args:
        window: Window in RGB.
        random: Generator of the random choices.
    """
    side = len(window)
    reduction = math.exp(random.uniform(0.0, math.log(_REDUCTION)))
    small = cv2.resize(window, (round(side / reduction), round(side / reduction)), interpolation=cv2.INTER_AREA)
    kind = int(random.integers(3))
    if kind == 0:
        quality = int(random.integers(*_JPEG_QUALITY))
        _, code = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        small = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    elif kind == 1:
        noise = random.normal(0.0, random.uniform(*_NOISE), small.shape)
        small = np.clip(small + noise, 0, 255).astype(np.uint8)
    else:
        small = cv2.GaussianBlur(small, (0, 0), random.uniform(0.4, 1.2))
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
