"""Fills a skeleton with the arrays of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_store.checkpoint_files.rounding import FLOAT16_MIN_ELEMENTS, rounded
from model_store.errors import ModelStoreError
from model_store.export.weight_storage import StoredArray

Weights = Literal["float16", "float32"]

MAX_GRAPH_BYTES = 2**31 - 2**24
"""Largest sum of the weights in one ONNX file: protobuf's limit is 2 GiB, for weights and graph together."""


class GraphTooLargeError(ModelStoreError):
    """The weights do not fit into one ONNX file."""


def write_filled(
    skeleton: onnx.ModelProto,
    arrays: Mapping[str, NDArray[Any]],
    path: Path,
    *,
    weights: Weights,
    stored: Mapping[str, StoredArray] | None = None,
) -> Path:
    """Write a graph with its weights inside.

    Args:
        skeleton: Graph whose weights are inputs; it becomes the filled graph.
        arrays: Arrays of a checkpoint by key.
        path: File to write.
        weights: Number format of arrays of 4096 elements and more. float16 arrays have a Cast behind them, which ONNX
            Runtime computes once when a session is made.
        stored: Positions of arrays that a file beside `path` contains already; large ones are not written again.

    Returns:
        The path.

    Raises:
        GraphTooLargeError: The weights are larger than one file may be.
    """
    total = 0
    for name in _weight_inputs(skeleton, arrays):
        if stored and name in stored and np.prod(stored[name].shape) >= FLOAT16_MIN_ELEMENTS:
            _add(skeleton, name, stored[name].tensor(name), stored[name].dtype == np.float16)
            continue
        array = rounded(arrays[name]) if weights == "float16" else np.ascontiguousarray(arrays[name], np.float32)
        total += array.nbytes
        if total > MAX_GRAPH_BYTES:
            raise GraphTooLargeError(
                "its weights are larger than the 2 GiB of one graph in float32; take --weights float16"
            )
        _add(skeleton, name, numpy_helper.from_array(array, name), array.dtype == np.float16)
    _finish(skeleton)
    onnx.save(skeleton, str(path))
    return path


def write_exact(skeleton: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]], path: Path) -> Path:
    """Write a graph in float32 with its weights in a file beside it, of any size, one array in memory at a time.

    Args:
        skeleton: Graph whose weights are inputs; it becomes the filled graph.
        arrays: Arrays of a checkpoint by key.
        path: File to write. The weights are in a file of the same name with the suffix `.data`.

    Returns:
        The path.
    """
    data = path.with_suffix(".data")
    with data.open("wb") as file:
        for name in _weight_inputs(skeleton, arrays):
            array = np.ascontiguousarray(arrays[name], np.float32)
            _add(skeleton, name, _written(array, name, file, data.name), is_float16=False)
    _finish(skeleton)
    onnx.save(skeleton, str(path))
    return path


def _weight_inputs(skeleton: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    return [value.name for value in skeleton.graph.input if value.name in arrays]


def _written(array: NDArray[np.float32], name: str, file: BinaryIO, file_name: str) -> TensorProto:
    """Append an array to a file and return the initializer that refers to it; small ones stay in the graph."""
    if array.size < FLOAT16_MIN_ELEMENTS:
        return numpy_helper.from_array(array, name)
    offset = file.tell()
    file.write(array.tobytes())
    return StoredArray(file_name, array.dtype, array.shape, offset, array.nbytes).tensor(name)


def _add(skeleton: onnx.ModelProto, name: str, tensor: TensorProto, is_float16: bool) -> None:  # noqa: FBT001
    """Add an initializer under the name of an input, with a Cast behind it if it is float16."""
    if is_float16:
        tensor.name = f"{name}.float16"
        cast = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT)
        skeleton.graph.node.append(cast)
    skeleton.graph.initializer.append(tensor)


def _finish(skeleton: onnx.ModelProto) -> None:
    """Remove the inputs that have a weight now, and put the Casts before the nodes that use them."""
    graph = skeleton.graph
    names = {tensor.name.removesuffix(".float16") for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    nodes = sorted(graph.node, key=lambda node: not (node.op_type == "Cast" and node.output[0] in names))
    del graph.input[:], graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)
