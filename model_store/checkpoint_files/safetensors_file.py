"""Reads `.safetensors` files without torch: a length, a JSON index, and the numbers.

The library of that name gives bfloat16 to torch only, and conversions need no package beside NumPy and ONNX.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.checkpoint_files.errors import CheckpointError, first_line
from model_store.checkpoint_files.pickled import MAX_TENSORS
from model_store.checkpoint_files.stored_tensor import STORED_TYPES, Storage, StoredTensor, check_sizes, dense

MAX_INDEX_BYTES = 16 * 2**20
_TYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the arrays of a file by name, memory-mapped, and its metadata.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is damaged or has a number format that no checkpoint of the family has.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_INDEX_BYTES:
            raise _unreadable(f"its index would have {length} bytes")
        text = file.read(length)
        if len(text) < length:
            raise _unreadable("its index is cut off")
        content = np.memmap(file, np.uint8, "r")[8 + length :]
    try:
        index = json.loads(text)
        metadata = index.pop("__metadata__", {})
        if len(index) > MAX_TENSORS:
            raise CheckpointError(f"contains more than {MAX_TENSORS} arrays")
        tensors = {name: _tensor(entry, content) for name, entry in index.items()}
        return tensors, {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(first_line(error)) from error


def _tensor(entry: Mapping[str, Any], content: NDArray[np.uint8]) -> StoredTensor:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _TYPES:
        raise CheckpointError(f"contains numbers of the format {str(dtype)[:20]!r}, which are not read")
    if not all(type(size) is int and size >= 0 for size in (begin, end, *shape)):
        raise ValueError("a size or position is not a number")
    check_sizes(shape)
    name = _TYPES[dtype]
    if end > len(content) or end - begin != math.prod(shape) * STORED_TYPES[name].itemsize:
        raise ValueError("an array does not lie inside the file")
    return dense(Storage(name, content[begin:end]), tuple(shape))


def _unreadable(reason: str) -> CheckpointError:
    return CheckpointError(f"is not a readable safetensors file: {reason}")
