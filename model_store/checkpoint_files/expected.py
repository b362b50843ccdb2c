"""Keys, shapes and number formats of every architecture's checkpoints, from files that need no torch to be read.

`model_store.export.skeletons.making` writes these files from the networks, and a test compares them.
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
"""Name of the keys of prompt encoder and mask decoder, which all architectures share."""
ENCODER = "image_encoder."
"""Prefix of the encoder's keys."""

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
    """Return the file with the keys of an encoder, or of the `DECODER`."""
    return SKELETONS / f"{part}.keys.json.xz"


def encoder_file_name(architecture: Architecture) -> str:
    """Return the name of an encoder in file names. Architectures with one encoder share its files."""
    return architecture.encoder.lower()


def expected_arrays(architecture: Architecture) -> Mapping[str, ExpectedArray]:
    """Return the arrays of an architecture's checkpoint by key, encoder first."""
    return {**part_arrays(encoder_file_name(architecture)), **part_arrays(DECODER)}


def is_unused(key: str) -> bool:
    """Return whether an array that some official files contain has no effect."""
    return _UNUSED.fullmatch(key) is not None


def may_be_absent(key: str) -> bool:
    """Return whether a checkpoint works without an array of the architecture."""
    return key.endswith(_COUNTER)


@functools.cache
def part_arrays(part: str) -> Mapping[str, ExpectedArray]:
    """Return the arrays of one encoder, or of the `DECODER`, by key."""
    content = json.loads(lzma.decompress(keys_file(part).read_bytes()))
    return {key: ExpectedArray(tuple(shape), dtype) for key, (dtype, shape) in content.items()}
