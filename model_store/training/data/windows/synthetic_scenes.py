"""Synthetic scenes with exact masks: overlapping textured shapes with holes and shadows."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotated_images import AnnotatedImage

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_HEIGHTS, _WIDTHS = (300, 520), (300, 640)  # pixels, as the photos have
_MAX_SHAPES = 8
_MIN_PIXELS = 60  # smallest visible area of a shape that becomes a mask
_RADII = (10.0, 0.4)  # smallest in pixels, largest as a share of the scene's shorter side
_HOLES, _SHADOWS, _NOISE = 0.12, 0.4, 0.5  # shares of shapes with a hole or a shadow, of textures with noise
_SOFT_EDGE = 0.7  # standard deviation of the blur of a shape's edge, in pixels
_SHADOW_DEPTH, _SHADOW_BLUR = 0.35, 3.0
_CURVE_POINTS = 160


def synthetic_scene(random: np.random.Generator) -> AnnotatedImage:
    """Return a scene with the masks of its visible shapes, which do not overlap."""
    height, width = int(random.integers(*_HEIGHTS)), int(random.integers(*_WIDTHS))
    masks: list[Bytes] = []
    while not masks:
        pixels = texture(height, width, random)
        for _ in range(int(random.integers(1, _MAX_SHAPES + 1))):
            outline = shape(height, width, random)
            if np.count_nonzero(outline) < _MIN_PIXELS:
                continue
            _draw_shape(pixels, outline, random)
            masks = [mask * (1 - outline) for mask in masks]
            masks.append(outline)
        masks = [mask for mask in masks if np.count_nonzero(mask) >= _MIN_PIXELS]
    boxes = np.array([cv2.boundingRect(mask) for mask in masks], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return AnnotatedImage(pixels, boxes, np.ones(len(masks)), masks.__getitem__)


def texture(height: int, width: int, random: np.random.Generator) -> Bytes:
    """Return a texture (height, width, 3): one colour, a gradient or stripes of two, with or without noise."""
    kind = int(random.integers(4))
    first, second = random.integers(0, 256, (2, 3)).astype(np.float32)
    ground = np.empty((height, width, 3), np.float32)
    ground[:] = first
    if kind > 0:
        share = _gradient(height, width, random.uniform(0, 2 * math.pi))
        if kind == 3:
            share = ((share * random.integers(2, 14)) % 1 > 0.5).astype(np.float32)
        ground += share[..., None] * (second - first)
    if random.random() < _NOISE:
        grain = random.integers(1, 6, 2)
        size = (max(height // int(grain[0]), 1), max(width // int(grain[1]), 1), 3)
        noise = random.standard_normal(size, np.float32) * np.float32(random.uniform(2, 22))
        ground += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).reshape(ground.shape)
    return np.asarray(np.clip(ground, 0, 255), np.uint8)


def shape(height: int, width: int, random: np.random.Generator) -> Bytes:
    """Return a shape (height, width), 0 and 1: ellipse, rotated box, polygon or smooth blob; some have a hole."""
    mask = np.zeros((height, width), np.uint8)
    radius = math.exp(random.uniform(math.log(_RADII[0]), math.log(_RADII[1] * min(height, width))))
    x, y = random.uniform(0, width), random.uniform(0, height)
    kind = int(random.integers(4))
    if kind == 0:
        axes = (int(radius), int(radius * random.uniform(0.35, 1)))
        cv2.ellipse(mask, (int(x), int(y)), axes, random.uniform(0, 180), 0, 360, 1, -1)
    elif kind == 1:
        angle = random.uniform(0, 90) if random.random() < 0.5 else 0.0
        sides = (2 * radius, 2 * radius * random.uniform(0.2, 1))
        cv2.fillPoly(mask, [cv2.boxPoints(((x, y), sides, angle)).astype(np.int32)], 1)
    else:
        corners = _corners(radius, random)
        points = _smooth(corners) if kind == 3 else corners
        cv2.fillPoly(mask, [np.round(points + np.array([x, y])).astype(np.int32)], 1)
    if random.random() < _HOLES:
        cv2.circle(mask, (int(x), int(y)), max(int(radius * 0.35), 2), 0, -1)
    return mask


def _draw_shape(pixels: Bytes, outline: Bytes, random: np.random.Generator) -> None:
    """Draw a textured shape and its shadow into a scene; only the surroundings of the shape's box are computed."""
    x, y, width, height = cv2.boundingRect(outline)
    margin = math.ceil(3 * _SHADOW_BLUR) + max(width, height) // 6
    rows = slice(max(y - margin, 0), y + height + margin)
    columns = slice(max(x - margin, 0), x + width + margin)
    background = pixels[rows, columns].astype(np.float32)
    opacity = outline[rows, columns].astype(np.float32)
    if random.random() < _SHADOWS:
        down, right = (float(random.uniform(0, max(width, height) / 6)) for _ in range(2))
        move = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
        shadow = cv2.warpAffine(opacity, move, (opacity.shape[1], opacity.shape[0]))
        background *= 1 - _SHADOW_DEPTH * cv2.GaussianBlur(shadow, (0, 0), _SHADOW_BLUR)[..., None]
    share = cv2.GaussianBlur(opacity, (0, 0), _SOFT_EDGE)[..., None]
    own = texture(opacity.shape[0], opacity.shape[1], random)
    pixels[rows, columns] = np.round(background * (1 - share) + own * share)


def _gradient(height: int, width: int, angle: float) -> Floats:
    """Return a gradient from 0 to 1 across a rectangle, (height, width)."""
    across = np.arange(width, dtype=np.float32) * np.float32(math.cos(angle) / width)
    down = np.arange(height, dtype=np.float32) * np.float32(math.sin(angle) / height)
    sum_of_both = across + down[:, None]
    low, high = float(sum_of_both.min()), float(sum_of_both.max())
    return (sum_of_both - np.float32(low)) / np.float32(max(high - low, 1e-6))


def _corners(radius: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return corners (n, 2) of a polygon around (0, 0), in order of their angle."""
    count = int(random.integers(3, 12))
    angles = np.sort(random.uniform(0, 2 * math.pi, count))
    distances = radius * random.uniform(0.45, 1, count)
    return np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)


def _smooth(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a closed curve (_CURVE_POINTS, 2) of the lowest frequencies of a polygon's corners."""
    count = len(corners)
    spectrum = np.fft.fft(corners[:, 0] + 1j * corners[:, 1])
    kept = (count - 1) // 2
    extended = np.zeros(_CURVE_POINTS, np.complex128)
    extended[: kept + 1] = spectrum[: kept + 1]
    extended[-kept:] = spectrum[-kept:]
    curve = np.fft.ifft(extended) * (_CURVE_POINTS / count)
    return np.stack([curve.real, curve.imag], axis=1)
