"""Reads the arrays of any checkpoint file, whatever wrapper and prefix its author has put around them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.safetensors_file import read_safetensors
from model_store.checkpoint_files.stored_tensor import StoredTensor
from model_store.checkpoint_files.torch_file import read_torch_file

SAFETENSORS = ".safetensors"
ARCHITECTURE_KEY = "architecture"
"""Name of the architecture in the metadata of this project's `.safetensors` files."""

# Names under which training programs store the arrays beside the state of the run.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# Prefixes of programs that save the model as a part of something else.
PREFIXES = ("module.", "model.", "sam.")


class LoadedArrays(Mapping[str, NDArray[Any]]):
    """Arrays by name, each read from the file when it is used.

    Args:
        tensors: Arrays of the file.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the numbers, see `StoredTensor.array`."""
        return self._tensors[name].array()

    def __iter__(self) -> Iterator[str]:
        """Return the names, in the order of the file."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._tensors)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """The arrays of a checkpoint file.

    Args:
        tensors: Arrays by name, without wrapper and prefix.
        others: Names of entries that are no arrays.
        architecture: Name of the architecture, if the file states it.
    """

    tensors: Mapping[str, StoredTensor]
    others: tuple[str, ...] = ()
    architecture: str | None = None

    @property
    def arrays(self) -> LoadedArrays:
        """Arrays by name, each read from the file when it is used; bfloat16 as float32."""
        return LoadedArrays(self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Return the arrays of a checkpoint file, memory-mapped. No code of the file runs.

    Args:
        path: A `.safetensors` file, or a PyTorch archive under any other name. The arrays may be inside one of
            `WRAPPERS`, and all names may have one of `PREFIXES`.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is damaged or contains something else; the message says what and what to do.
    """
    path = Path(path)
    try:
        if path.suffix == SAFETENSORS:
            tensors, metadata = read_safetensors(path)
            return _stripped(CheckpointFile(tensors, architecture=metadata.get(ARCHITECTURE_KEY)))
        return _stripped(_checkpoint(read_torch_file(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def _checkpoint(content: object) -> CheckpointFile:
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"contains {_kind(content)}, not a mapping of names to arrays")
    named = {str(name): value for name, value in content.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, StoredTensor)}
    return CheckpointFile(tensors, tuple(name for name in named if name not in tensors))


def _stripped(checkpoint: CheckpointFile) -> CheckpointFile:
    """Return the checkpoint without the prefix that all its names have."""
    for prefix in PREFIXES:
        names = (*checkpoint.tensors, *checkpoint.others)
        if names and all(name.startswith(prefix) for name in names):
            return CheckpointFile(
                {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()},
                tuple(name.removeprefix(prefix) for name in checkpoint.others),
                checkpoint.architecture,
            )
    return checkpoint


def _kind(content: object) -> str:
    return "an array" if isinstance(content, StoredTensor) else f"a {type(content).__name__}"
