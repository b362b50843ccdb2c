"""Storage of weights: large arrays as float16, and the decoder's parameters once for ONNX and for the C decoder.

The decoder's parameters are in a NumPy archive under SAM's names, for service/native. `decoder.onnx` refers to the same
bytes as ONNX's external data.
"""

import hashlib
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from model_store.checkpoint_files.rounding import FLOAT16_MIN_ELEMENTS, rounded

# The prepare graph's part, and SAM 2's object score, which prompts on images do not use.
_NOT_OF_DECODING = ("prompt_encoder.mask_downscaling.", "mask_decoder.pred_obj_score_head.")


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Position of an array in an uncompressed NumPy archive.

    Attributes:
        file: Name of the archive.
        dtype: Number format, float16 or float32.
        shape: Shape of the array.
        offset: First byte of the numbers in the archive.
        nbytes: Number of bytes.
    """

    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def tensor(self, name: str) -> TensorProto:
        """Return an initializer whose numbers are read from the archive."""
        data_type = helper.np_dtype_to_tensor_dtype(self.dtype)
        tensor = TensorProto(name=name, dims=self.shape, data_type=data_type, raw_data=b"")
        set_external_data(tensor, self.file, self.offset, self.nbytes)
        tensor.ClearField("raw_data")
        return tensor


def write_decoder_parameters(
    state: Mapping[str, NDArray[Any]], path: Path, weights: Literal["float16", "float32"]
) -> Path:
    """Write the decoder parameters that service/native loads, under SAM's names.

    The same numbers give the same bytes.

    Args:
        state: All arrays of a model by key.
        path: Archive to write, `.npz`.
        weights: Number format of arrays of 4096 elements and more.

    Returns:
        The path.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: np.asarray(array, np.float32)
        for name, array in state.items()
        if name.startswith(("mask_decoder.", "prompt_encoder.")) and not name.startswith(_NOT_OF_DECODING)
    }
    if weights == "float16":
        arrays = {name: rounded(array) for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def float16_arrays(path: Path) -> dict[bytes, StoredArray]:
    """Return the float16 arrays of an archive by the digest of shape and numbers."""
    with np.load(path) as archive:
        return {
            _digest(archive[name]): array for name, array in archived_arrays(path).items() if array.dtype == np.float16
        }


def archived_arrays(path: Path) -> dict[str, StoredArray]:
    """Return the positions of an archive's arrays by name."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            file.seek(name_length + extra_length, os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            name = member.filename.removesuffix(".npy")
            found[name] = StoredArray(path.name, dtype, shape, file.tell(), math.prod(shape) * dtype.itemsize)
    return found


def store_float16(path: Path, shared: Mapping[bytes, StoredArray]) -> None:
    """Store each large initializer that float16 can hold exactly as float16 with a Cast behind it.

    Arrays that `shared` contains, as they are or transposed, are referred to as ONNX's external data. ONNX Runtime
    folds these nodes when the session is made, so a run costs nothing more.

    Args:
        path: ONNX file, which is replaced.
        shared: Arrays of the decoder's archive, from `float16_arrays`.
    """
    model = onnx.load(str(path))
    graph = model.graph
    nodes = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        small = _float16_if_exact(numpy_helper.to_array(initializer))
        if small.dtype != np.float16:
            continue
        name = initializer.name
        stored, source = f"{name}.float16", f"{name}.float16"
        if found := shared.get(_digest(small)):
            initializer.CopyFrom(found.tensor(stored))
        elif small.ndim == 2 and (found := shared.get(_digest(small.T))):
            initializer.CopyFrom(found.tensor(stored))
            source = f"{stored}.transposed"
            nodes.append(helper.make_node("Transpose", [stored], [source], perm=[1, 0]))
        else:
            initializer.CopyFrom(numpy_helper.from_array(small, stored))
        nodes.append(helper.make_node("Cast", [source], [name], to=TensorProto.FLOAT))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(path))


def _float16_if_exact(array: NDArray[np.float32]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return a large array as float16 if that is exact, see `rounded`; any other array as it is."""
    with np.errstate(over="ignore"):
        small = array.astype(np.float16)
    is_exact = array.size >= FLOAT16_MIN_ELEMENTS and np.array_equal(small.astype(np.float32), array)
    return small if is_exact else array


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
