"""One array of a checkpoint file, not read before it is asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = "bfloat16"

# Little-endian, whatever machine reads the file. NumPy has no bfloat16: its bits are the upper half of a float32.
STORED_TYPES: Mapping[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    BFLOAT16: np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**48


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes of a file that one or more tensors share.

    Args:
        dtype: Number format, a key of `STORED_TYPES`.
        content: The bytes, (N,) uint8, usually a memory-mapped part of the file.
    """

    dtype: str
    content: NDArray[np.uint8]

    @property
    def elements(self) -> int:
        return len(self.content) // STORED_TYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An array of a checkpoint file.

    Args:
        storage: Bytes that hold its numbers.
        offset: Position of its first number in the storage, in elements.
        shape: Its shape.
        strides: Distances between neighbours along each axis, in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse an array that does not lie inside its storage.

        Raises:
            ValueError: A number would be outside the storage, or one number would stand for several.
        """
        if len(self.shape) != len(self.strides):
            raise ValueError(f"an array has {len(self.shape)} dimensions and {len(self.strides)} strides")
        check_sizes(self.shape)
        if not all(0 <= number <= _MAX_SIZE for number in (self.offset, *self.strides)):
            raise ValueError("an array has a negative offset or stride, or one larger than any file")
        count = math.prod(self.shape)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if count and (last >= self.storage.elements or count > self.storage.elements):
            raise ValueError(
                f"an array of shape {list(self.shape)} does not fit into its {self.storage.elements} stored numbers"
            )

    @property
    def dtype(self) -> str:
        """Number format in the file, such as "float32" or "bfloat16"."""
        return self.storage.dtype

    @property
    def is_floating_point(self) -> bool:
        return "float" in self.dtype

    def array(self) -> NDArray[Any]:
        """Return the numbers. bfloat16 becomes float32; the other formats stay, as a view of the file if possible."""
        stored = STORED_TYPES[self.dtype]
        flat = self.storage.content[: self.storage.elements * stored.itemsize].view(stored)[self.offset :]
        if not math.prod(self.shape):
            numbers: NDArray[Any] = np.zeros(self.shape, stored)
        else:
            steps = tuple(stride * stored.itemsize for stride in self.strides)
            numbers = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        return (numbers.astype("<u4") << 16).view("<f4") if self.dtype == BFLOAT16 else numbers


def check_sizes(shape: Sequence[int]) -> None:
    """Refuse a shape whose product would take long to compute.

    Args:
        shape: Sizes of the axes.

    Raises:
        ValueError: There are too many axes, or a size is negative or larger than any file.
    """
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array has {len(shape)} dimensions")
    if not all(0 <= size <= _MAX_SIZE for size in shape):
        raise ValueError("an array has a negative size, or one larger than any file")


def dense(storage: Storage, shape: tuple[int, ...]) -> StoredTensor:
    """Return the array of a shape that fills a storage from its begin, in C order."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(storage, 0, shape, strides)
