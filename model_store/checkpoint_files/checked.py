"""A checkpoint file with its architecture, checked: what models and artifacts are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model_store.architectures import Architecture, UnknownArchitectureError, architecture
from model_store.checkpoint_files.comparison import check_finite, content_name
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.matching import matched_keys
from model_store.checkpoint_files.reading import CheckpointFile, LoadedArrays, read_checkpoint
from model_store.checkpoint_files.recognition import recognise


@dataclass(frozen=True, slots=True)
class CheckedCheckpoint:
    """The arrays of a checkpoint, which are those of its architecture and finite.

    Args:
        architecture: The architecture.
        arrays: Arrays by the key of the network, each read from the file when it is used. Counters of training may be
            absent.
    """

    architecture: Architecture
    arrays: Mapping[str, NDArray[Any]]


def checked_checkpoint(path: str | Path, architecture_name: str | None = None) -> CheckedCheckpoint:
    """Read a checkpoint file and compare all its arrays with its architecture.

    Args:
        path: Checkpoint file, see `read_checkpoint`.
        architecture_name: Name of the architecture. None: the one that the file states, or that its keys show.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is damaged, of another family, or its keys, shapes or values are not those of the
            architecture.
    """
    file = read_checkpoint(path)
    try:
        return _checked(file, architecture_name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _checked(file: CheckpointFile, architecture_name: str | None) -> CheckedCheckpoint:
    name = architecture_name or file.architecture
    try:
        entry = architecture(name) if name else recognise(file.shapes)
    except UnknownArchitectureError as error:
        raise CheckpointError(str(error)) from error
    keys = matched_keys(entry, file.tensors, others=file.others)
    check_finite(file.arrays, keys.values(), content_name(entry))
    return CheckedCheckpoint(entry, LoadedArrays({own: file.tensors[key] for own, key in keys.items()}))
