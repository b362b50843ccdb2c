"""Reproducible random EdgeSAM weights: one array a key, from the key's name and a seed.

The reference arrays are outputs of the official EdgeSAM with the weights of seed 0. Only the raw 64-bit stream of
PCG64 is used, so the numbers are the same with every NumPy.
"""

import math
import zlib

import numpy as np


def state_dict(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return one array for each key of ``shapes``.

    Every number influences the outputs: batch norm statistics, affine pairs and biases are random. The last layers of
    the mask and IoU heads are enlarged, so that logits lie on both sides of 0 and of the stability thresholds.
    """
    return {key: _array(key, shape, seed) for key, shape in shapes.items()}


def _array(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.asarray(1000, dtype=np.int64)
    low, high = _range(key, shape)
    return uniform(key, seed, shape, low, high)


def _range(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if key.endswith("running_var"):
        return 0.4, 1.6
    deviation = _deviation(key)
    if deviation is not None:
        bound = deviation * math.sqrt(3)
        return -bound, bound
    if len(shape) == 1:  # the weight of a normalisation layer
        return 0.6, 1.4
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    if "hypernetworks" in key and ".layers.2." in key:
        bound *= 12.0
    if "iou_prediction_head.layers.2." in key:
        bound *= 4.0
    return -bound, bound


def _deviation(key: str) -> float | None:
    """Standard deviation of the arrays that are given by one."""
    if key.endswith("running_mean"):
        return 0.1
    if "no_mask_embed" in key:
        return 0.5
    embeddings = ("gaussian_matrix", "point_embeddings", "not_a_point_embed", "iou_token", "mask_tokens")
    if any(name in key for name in embeddings):
        return 1.0
    if key.endswith("bias"):
        return 0.6 if "hypernetworks" in key and ".layers.2." in key else 0.1
    return None


def uniform(key: str, seed: int, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float32 in [low, high), decided by key and seed alone: 53 bits of each 64-bit word."""
    words = np.random.PCG64([seed, zlib.crc32(key.encode())]).random_raw(math.prod(shape))
    unit = (np.asarray(words, dtype=np.uint64) >> np.uint64(11)) * 2.0**-53
    return (low + unit * (high - low)).astype(np.float32).reshape(shape)
