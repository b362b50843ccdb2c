"""Reproducible random weights of every architecture of the SAM family: one array a key, from its name and a seed.

The reference arrays of the family are outputs of the official codes with these weights: seed 1 for `tiny-sam`, whose
network is that of `mobile-sam`, and seed 0 for all others. Keys and shapes are those of the published checkpoints.

The running statistics of batch norms were measured once on the reference image, so that a random network is as well
conditioned as a trained one. Those of three architectures are committed, the others are in the full fixtures. Where
they are missing they are random: then the weights suffice for loading, saving and speed, not for comparing answers.
"""

import functools
import gzip
import json
import math
import re
from collections.abc import Mapping

import numpy as np
from support.official_reference import COMMITTED, FULL
from support.reference_weights import state_dict as decoder_arrays
from support.reference_weights import uniform

FAMILY_COMMITTED = COMMITTED / "sam_family"
FAMILY_FULL = FULL / "sam_family"
SHAPES_FILE = FAMILY_COMMITTED / "shapes.json.gz"

Shape = tuple[int, ...]

# Convolutions before a batch norm have outputs of this deviation, if the mean square of their inputs is 1. Running
# variances are about its square. They are so small that a wrong epsilon of a batch norm shows.
_BEFORE_NORM = 0.15

# The first pattern that occurs in a key gives its number. For a weight that is the deviation of the layer's outputs at
# inputs of mean square 1; for any other array it is the deviation of the elements.
_DEVIATIONS: tuple[tuple[str, float], ...] = (
    # ViT
    (r"encoder\.pos_embed$", 0.1),
    (r"encoder\.patch_embed\.proj\.weight$", 0.1),
    (r"encoder\.patch_embed\.proj\.bias$", 0.02),
    (r"\.rel_pos_[hw]$", 0.12),
    (r"encoder\.blocks\.\d+\.attn\.proj\.weight$", 0.25),
    (r"encoder\.blocks\.\d+\.mlp\.lin2\.weight$", 0.15),
    (r"encoder\.blocks\..*\.(proj|lin2)\.bias$", 0.02),
    # TinyViT
    (r"\.attention_biases$", 1.0),
    (r"encoder\.layers\.\d+\.blocks\.\d+\.(attn\.proj|mlp\.fc2)\.weight$", 0.3),
    (r"encoder\.layers\..*\.(proj|fc2)\.bias$", 0.05),
    # RepViT: the 1x1 branch without a norm
    (r"\.token_mixer\.0\.conv1\.weight$", 0.5),
    # EfficientViT
    (r"\.aggreg\.0\.[01]\.weight$", 1.0),
    (r"\.context_module\.main\.proj\.conv\.weight$", 0.3),
    (r"encoder\.neck\.output_ops\.0\.op_list\.0\.conv\.weight$", 0.1),
    (r"encoder\.neck\.output_ops\.0\.op_list\.0\.conv\.bias$", 0.02),
    # The neck of all but EfficientViT
    (r"encoder\.neck\.0\.weight$", 0.15),
    (r"encoder\.neck\.2\.weight$", 0.1),
)
# Norms at the end of a residual branch have small weights.
_ENDS_OF_BRANCHES = re.compile(
    r"encoder\.layers\.0\.blocks\.\d+\.conv3\.bn\.weight$"
    r"|\.channel_mixer\.m\.2\.bn\.weight$"
    r"|\.main\.(point_conv|conv2|proj)\.norm\.weight$"
)
# Names of a convolution and of the batch norm behind it.
_NORM_OF_CONVOLUTION = {"c": "bn", "conv": "norm"}


def reference_seed(name: str) -> int:
    """Return the seed of the weights with which the reference arrays of an architecture were made."""
    return 1 if name == "tiny-sam" else 0


def family_file(name: str, suffix: str = ".npz") -> str:
    """Return the name of a fixture file of an architecture, for instance ``mobile_sam.npz``."""
    return name.replace("-", "_") + suffix


@functools.cache
def shapes(name: str) -> Mapping[str, Shape]:
    """Return keys and shapes of an architecture's published checkpoint, in its order.

    Args:
        name: Name of the architecture, for instance ``mobile-sam``.
    """
    listed = json.loads(gzip.decompress(SHAPES_FILE.read_bytes()))
    encoder = listed["encoders"]["mobile-sam" if name == "tiny-sam" else name]
    arrays = [*encoder, *listed["decoder"]]
    return {key: tuple(shape) for key, shape in arrays}


def state_dict(name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Return all arrays of a checkpoint, with the unused ones of the published file.

    Args:
        name: Name of the architecture, for instance ``mobile-sam``.
        seed: Seed of the weights; None for that of the reference arrays.
    """
    seed = reference_seed(name) if seed is None else seed
    listed = shapes(name)
    encoder = {key: _encoder_array(key, listed, seed) for key in listed if key.startswith("image_encoder.")}
    return encoder | decoder_state_dict(name, seed) | running_statistics(name)


def decoder_state_dict(name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of prompt encoder and mask decoder; see `state_dict` for the arguments."""
    seed = reference_seed(name) if seed is None else seed
    decoder = {key: shape for key, shape in shapes(name).items() if not key.startswith("image_encoder.")}
    return decoder_arrays(decoder, seed)


def running_statistics(name: str) -> dict[str, np.ndarray]:
    """Return the measured statistics of batch norms as float32; empty where there are none on this machine."""
    for folder in (FAMILY_COMMITTED, FAMILY_FULL):
        path = folder / family_file(name, "_running.npz")
        if path.is_file():
            with np.load(path) as measured:
                return {key: measured[key].astype(np.float32) for key in measured.files}
    return {}


def _encoder_array(key: str, listed: Mapping[str, Shape], seed: int) -> np.ndarray:
    shape = listed[key]
    kind = key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.asarray(1000, dtype=np.int64)
    if kind == "running_var":
        return uniform(key, seed, shape, 0.4 * _BEFORE_NORM**2, 1.6 * _BEFORE_NORM**2)
    if kind == "weight" and len(shape) == 1:
        low, high = (0.2, 0.6) if _ENDS_OF_BRANCHES.search(key) else (0.6, 1.4)
        return uniform(key, seed, shape, low, high)
    bound = _deviation(key, kind, listed) * math.sqrt(3)
    return uniform(key, seed, shape, -bound, bound)


def _deviation(key: str, kind: str, listed: Mapping[str, Shape]) -> float:
    """Standard deviation of the elements of an array with mean 0."""
    if kind == "running_mean":
        return 0.1 * _BEFORE_NORM
    stated = next((deviation for pattern, deviation in _DEVIATIONS if re.search(pattern, key)), None)
    if kind != "weight":
        return 0.1 if stated is None else stated
    if stated is None:
        stated = _BEFORE_NORM if _has_norm_behind(key, listed) else 1.0
    return stated / math.sqrt(math.prod(listed[key][1:]))


def _has_norm_behind(key: str, listed: Mapping[str, Shape]) -> bool:
    parent, _, convolution = key.removesuffix(".weight").rpartition(".")
    return f"{parent}.{_NORM_OF_CONVOLUTION.get(convolution)}.running_var" in listed
