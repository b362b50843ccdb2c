"""Keys, shapes and number formats of every architecture's checkpoints, from files that need no torch to be read.

`model_store.export.skeletons.making` writes these files from the networks, and a test compares them. Only the lists of
what SAM 2's family has for videos are written by hand, because no network here has these arrays.
"""

import functools
import json
import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_store.architectures import Architecture

SKELETONS = Path(__file__).parents[1] / "skeletons"
"""Folder of what is made at a release: keys and graphs of all architectures, without weights."""
DECODER = "decoder"
"""Name of the keys of prompt encoder and mask decoder, which all architectures but SAM 2's family share."""
ENCODER = "image_encoder."
"""Prefix of the encoder's keys."""

_DECODERS: Mapping[str, str] = {"sam": DECODER, "sam2": "decoder-sam2"}
# EdgeTAM has a perceiver for its memory, and lacks what SAM 2.1 added to SAM 2.0.
_VIDEO: Mapping[str, str] = {"edgetam": "video-edgetam"}
_VIDEO_SAM2 = "video-sam2"

# TinyViT's files contain the head of the classifier it was trained as. No pass through the model uses it.
_UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.(weight|bias)")
# Counters of training. Inference does not read them, and programs that save a model anew drop them.
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True, slots=True)
class ExpectedArray:
    """Shape and number format of an array, "float32" or "int64"."""

    shape: tuple[int, ...]
    dtype: str


def keys_file(part: str) -> Path:
    """Return the file with a list of keys: those of an encoder, of a decoder, or for videos."""
    return SKELETONS / f"{part}.keys.json.xz"


def encoder_file_name(architecture: Architecture) -> str:
    """Return the name of an encoder in file names. Architectures with one encoder share its files."""
    return re.sub(r"[^a-z0-9.]+", "-", architecture.encoder.lower().replace("+", "-plus")).strip("-")


def decoder_file_name(architecture: Architecture) -> str:
    """Return the name of the keys of an architecture's prompt encoder and mask decoder in file names."""
    return _DECODERS[architecture.mask_decoder]


def expected_arrays(architecture: Architecture) -> Mapping[str, ExpectedArray]:
    """Return the arrays of an architecture's checkpoint by key, encoder first.

    The keys are those of this project's networks. For SAM 2's family the files have others, see `sam2_names`.
    """
    return {**part_arrays(encoder_file_name(architecture)), **part_arrays(decoder_file_name(architecture))}


def video_arrays(architecture: Architecture) -> Mapping[str, ExpectedArray]:
    """Return the arrays of official files that only the video mode uses, by official key; empty for SAM's family.

    Files of SAM 2.0 lack three of those of SAM 2.1.
    """
    if architecture.mask_decoder == "sam":
        return {}
    return part_arrays(_VIDEO.get(architecture.name, _VIDEO_SAM2))


def is_unused(key: str) -> bool:
    """Return whether an array that some official files of SAM's family contain has no effect."""
    return _UNUSED.fullmatch(key) is not None


def may_be_absent(key: str) -> bool:
    """Return whether a checkpoint works without an array of the architecture."""
    return key.endswith(_COUNTER)


@functools.cache
def part_arrays(part: str) -> Mapping[str, ExpectedArray]:
    """Return the arrays of one list by key: those of an encoder, of a decoder, or for videos."""
    content = json.loads(lzma.decompress(keys_file(part).read_bytes()))
    return {key: ExpectedArray(tuple(shape), dtype) for key, (dtype, shape) in content.items()}
