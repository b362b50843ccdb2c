"""The files of skeletons: ONNX graphs whose weights are inputs under the keys of checkpoints, compressed."""

import lzma
from pathlib import Path

import onnx

from model_store.architectures import Architecture
from model_store.checkpoint_files.expected import SKELETONS, decoder_file_name
from model_store.errors import ModelStoreError

PREPARE = "prepare"


class SkeletonError(ModelStoreError):
    """The package has no graphs for an architecture."""


def decoder_skeleton(architecture: Architecture) -> str:
    """Return the name of an architecture's decoder graph. It depends on the epsilon of the layer norms."""
    return f"{decoder_file_name(architecture)}-{architecture.norm_epsilon:.0e}"


def skeleton_file(name: str) -> Path:
    """Return the file of a skeleton.

    Args:
        name: Name of an encoder (`encoder_file_name`), of a decoder (`decoder_skeleton`), or `PREPARE`.
    """
    return SKELETONS / f"{name}.onnx.xz"


def read_skeleton(name: str) -> onnx.ModelProto:
    """Return a skeleton.

    Args:
        name: See `skeleton_file`.

    Raises:
        SkeletonError: There is no such skeleton.
    """
    path = skeleton_file(name)
    if not path.is_file():
        raise SkeletonError(f"this package has no graph {name!r}: make it with 'edgesam models skeletons'")
    return onnx.load_from_string(lzma.decompress(path.read_bytes()))


def write_compressed(path: Path, content: bytes) -> None:
    """Write a compressed file; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
