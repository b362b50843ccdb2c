"""Reproducible random weights of SAM 2.1 and EdgeTAM: one array a key, from its name and a seed.

The reference arrays of these models are outputs of the official codes with the weights of seed 0. Keys and shapes are
those of the published files, also for the arrays that only the video mode uses. The arrays that SAM's decoder has as
well are those of `reference_weights`, number for number.
"""

import functools
import gzip
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from support.official_reference import COMMITTED, FULL
from support.reference_weights import uniform

SAM2_COMMITTED = COMMITTED / "sam2"
SAM2_FULL = FULL / "sam2"
NAMES = ("edgetam", "sam2.1-tiny", "sam2.1-small", "sam2.1-base-plus", "sam2.1-large")
ONLY_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
"""Keys that files of SAM 2.0 lack."""

Shape = tuple[int, ...]

# Convolutions before a batch norm have outputs of this deviation, if the mean square of their inputs is 1.
_BEFORE_NORM = 0.15
# The first pattern that occurs in a key of the encoder gives its number. For a weight that is the deviation of the
# layer's outputs at inputs of mean square 1; for any other array it is the deviation of the elements.
_DEVIATIONS: tuple[tuple[str, float], ...] = (
    (r"trunk\.pos_embed$", 0.1),
    (r"trunk\.pos_embed_window$", 0.1),
    (r"trunk\.patch_embed\.proj\.weight", 0.1),
    (r"trunk\.patch_embed\.proj\.bias", 0.02),
    (r"trunk\.blocks\.\d+\.attn\.qkv\.weight", 1.2),
    (r"trunk\.blocks\.\d+\.attn\.proj\.weight", 0.15),
    (r"trunk\.blocks\.\d+\.mlp\.layers\.1\.weight", 0.1),
    (r"trunk\.blocks\.\d+\.proj\.weight", 0.15),
    (r"trunk\.blocks\..*\.(proj|layers\.1)\.bias", 0.02),
    (r"neck\.convs\.\d\.conv\.bias", 0.1),
    (r"no_mem_embed", 0.3),
)
# Outputs of the neck's convolutions, deepest level first. RepViT's maps are larger than Hiera's.
_NECK = re.compile(r"neck\.convs\.(\d)\.conv\.weight")
_NECK_HIERA = (1.6, 1.6, 2.2, 2.8)
_NECK_EDGETAM = (0.45, 0.35, 0.5, 0.6)
_ENDS_OF_BRANCHES = re.compile(r"\.(channel_mixer|ffn)\.conv2\.bn\.weight$")
_EMBEDDINGS = (
    "gaussian_matrix", "point_embeddings", "not_a_point_embed", "iou_token", "mask_tokens", "obj_score_token"
)  # fmt: skip
# Factors of the last layers of the decoder's heads, so that logits lie on both sides of 0.
_LAST_LAYERS: tuple[tuple[str, float], ...] = (
    ("output_hypernetworks_mlps.", 12.0),
    ("iou_prediction_head.", 4.0),
    ("pred_obj_score_head.", 12.0),
)


def sam2_file(name: str, suffix: str = ".npz") -> str:
    """Return the name of a full fixture file of an architecture, for instance ``sam2.1_hiera_base_plus.npz``."""
    stem = name if name == "edgetam" else "sam2.1_hiera_" + name.removeprefix("sam2.1-").replace("-", "_")
    return stem + suffix


def shapes(name: str) -> Mapping[str, Shape]:
    """Return keys and shapes that single images need of a published file, in its order.

    Args:
        name: Name of the architecture, for instance ``sam2.1-tiny``.
    """
    return _shapes(_listed()["needed"][name])


def video_shapes(name: str) -> Mapping[str, Shape]:
    """Return the other keys and shapes of a published file; see `shapes`."""
    return _shapes(_listed()["video"]["edgetam" if name == "edgetam" else "sam2.1"])


def state_dict(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays that single images need, by official key.

    The statistics of EdgeTAM's batch norms are measured ones for seed 0, and random ones for any other seed. The random
    ones suffice for loading, saving and speed, not for comparing answers.

    Args:
        name: Name of the architecture, for instance ``sam2.1-tiny``.
        seed: Seed of the weights.
    """
    listed = shapes(name)
    arrays = {key: _array(key, listed, seed) for key in listed}
    if name == "edgetam" and seed == 0:
        with np.load(SAM2_COMMITTED / "edgetam_running.npz") as measured:
            arrays.update({key: measured[key].astype(np.float32) for key in measured.files})
    return arrays


def published_state_dict(name: str, seed: int = 0, *, version: str = "2.1") -> dict[str, np.ndarray]:
    """Return all arrays of a published file, those of the video mode behind those of `state_dict`.

    Args:
        name: Name of the architecture.
        seed: Seed of the weights.
        version: "2.1", or "2.0" for a file without what SAM 2.1 added.
    """
    left_out = ONLY_2_1 if version == "2.0" else ()
    video = {key: shape for key, shape in video_shapes(name).items() if key not in left_out}
    return state_dict(name, seed) | {key: uniform(key, seed, shape, -0.1, 0.1) for key, shape in video.items()}


def write_sam2_checkpoint(name: str, path: Path, seed: int = 0, *, version: str = "2.1") -> Path:
    """Write a file with the layout of the published one; see `published_state_dict`."""
    arrays = published_state_dict(name, seed, version=version)
    torch.save({"model": {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}}, path)
    return path


@functools.cache
def _listed() -> dict[str, dict[str, dict[str, list[int]]]]:
    content: dict[str, dict[str, dict[str, list[int]]]] = json.loads(
        gzip.decompress((SAM2_COMMITTED / "shapes.json.gz").read_bytes())
    )
    return content


def _shapes(listed: Mapping[str, list[int]]) -> dict[str, Shape]:
    return {key: tuple(shape) for key, shape in listed.items()}


def _array(key: str, listed: Mapping[str, Shape], seed: int) -> np.ndarray:
    shape = listed[key]
    if key.endswith("num_batches_tracked"):
        return np.asarray(1000, dtype=np.int64)
    low, high = _decoder_range(key, shape) if key.startswith("sam_") else _encoder_range(key, listed)
    return uniform(_seeded_name(key), seed, shape, low, high)


def _seeded_name(key: str) -> str:
    """Return the name whose numbers an array gets: SAM's name of the array where SAM has it."""
    if not key.startswith("sam_"):
        return key
    sam = key.removeprefix("sam_")
    return re.sub(r"(\.layers\.\d\.mlp)\.layers\.([01])\.", lambda found: f"{found[1]}.lin{int(found[2]) + 1}.", sam)


def _decoder_range(key: str, shape: Shape) -> tuple[float, float]:
    if "no_mask_embed" in key:
        return _centred(0.5)
    if any(name in key for name in _EMBEDDINGS):
        return _centred(1.0)
    if key.endswith("bias"):
        return _centred(0.6 if "hypernetworks" in key and ".layers.2." in key else 0.1)
    if len(shape) == 1:  # the weight of a normalisation layer
        return 0.6, 1.4
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    bound *= next((factor for head, factor in _LAST_LAYERS if head in key and ".layers.2." in key), 1.0)
    return -bound, bound


def _encoder_range(key: str, listed: Mapping[str, Shape]) -> tuple[float, float]:
    shape = listed[key]
    if key.endswith("running_mean"):
        return _centred(0.1 * _BEFORE_NORM)
    if key.endswith("running_var"):
        return 0.4 * _BEFORE_NORM**2, 1.6 * _BEFORE_NORM**2
    if key.endswith("weight") and len(shape) == 1:
        return (0.2, 0.6) if _ENDS_OF_BRANCHES.search(key) else (0.6, 1.4)
    stated = next((deviation for pattern, deviation in _DEVIATIONS if re.search(pattern, key)), None)
    if not key.endswith("weight"):
        return _centred(0.1 if stated is None else stated)
    if stated is None:
        stated = _weight_deviation(key, listed)
    return _centred(stated / math.sqrt(math.prod(shape[1:])))


def _weight_deviation(key: str, listed: Mapping[str, Shape]) -> float:
    if level := _NECK.search(key):
        return (_NECK_HIERA if "image_encoder.trunk.pos_embed" in listed else _NECK_EDGETAM)[int(level[1])]
    has_norm_behind = key.removesuffix("c.weight") + "bn.running_var" in listed
    return _BEFORE_NORM if has_norm_behind else 1.0


def _centred(deviation: float) -> tuple[float, float]:
    """Return the bounds of a uniform distribution of mean 0."""
    bound = deviation * math.sqrt(3)
    return -bound, bound
