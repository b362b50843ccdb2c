"""Storage of weights: large arrays as float16, and the decoder's parameters once for ONNX and for the C decoder.

The decoder's parameters are in a NumPy archive under SAM's names, for service/native. `decoder.onnx` refers to the same
bytes as ONNX's external data.
"""

import copy
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
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from model_store.checkpoint import FLOAT16_MIN_ELEMENTS
from model_store.network.model import PromptableModel


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Position of a float16 array in an uncompressed NumPy archive.

    Attributes:
        file: Name of the archive.
        shape: Shape of the array.
        offset: First byte of the numbers in the archive.
        nbytes: Number of bytes.
    """

    file: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def tensor(self, name: str) -> TensorProto:
        """Return an initializer whose float16 numbers are read from the archive."""
        tensor = TensorProto(name=name, dims=self.shape, data_type=TensorProto.FLOAT16, raw_data=b"")
        set_external_data(tensor, self.file, self.offset, self.nbytes)
        tensor.ClearField("raw_data")
        return tensor


def round_to_float16(model: PromptableModel) -> PromptableModel:
    """Return a copy whose parameters of 4096 elements and more are float16 numbers held in float32."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.numel() >= FLOAT16_MIN_ELEMENTS:
                parameter.copy_(parameter.half().float())
    return rounded


def write_decoder_parameters(model: PromptableModel, path: Path, weights: Literal["float16", "float32"]) -> Path:
    """Write the decoder parameters that service/native loads, under SAM's names.

    The same numbers give the same bytes.

    Args:
        model: Deployed model.
        path: Archive to write, `.npz`.
        weights: Number format of arrays of 4096 elements and more.

    Returns:
        The path.
    """
    arrays = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith(("mask_decoder.", "prompt_encoder.")) and "mask_downscaling" not in name
    }
    if weights == "float16":
        arrays = {name: _float16_if_exact(array) for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def float16_arrays(path: Path) -> dict[bytes, StoredArray]:
    """Return the float16 arrays of an archive by the digest of shape and numbers."""
    shared = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            file.seek(name_length + extra_length, os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype == np.float16:
                offset, nbytes = file.tell(), math.prod(shape) * dtype.itemsize
                array = np.frombuffer(file.read(nbytes), dtype).reshape(shape)
                shared[_digest(array)] = StoredArray(path.name, shape, offset, nbytes)
    return shared


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
    """Return a large array as float16 if that is exact, see `round_to_float16`; any other array as it is."""
    with np.errstate(over="ignore"):
        small = array.astype(np.float16)
    is_exact = array.size >= FLOAT16_MIN_ELEMENTS and np.array_equal(small.astype(np.float32), array)
    return small if is_exact else array


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
