"""Small graphs with the inputs and outputs of a model whose mask decoder is that of SAM 2, to follow arrays by."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save

from model_store.architectures import architecture
from model_store.export.manifest_file import manifest_text
from model_store.export.manifest_making import MadeFiles, made_manifest
from model_store.export.model_info import UNTRAINED_LICENCE, ModelInfo
from service.manifest import MANIFEST_NAME

_OPSET = 17


def write_small_artifact(folder: Path, name: str = "small") -> Path:
    """Write an artifact of the architecture edgetam whose graphs are the small ones below, without native decoder."""
    graphs = {
        "encoder": write_encoder(folder / "encoder.onnx"),
        "prepare": write_prepare(folder / "prepare.onnx"),
        "decoder": write_decoder(folder / "decoder.onnx"),
    }
    files = MadeFiles(graphs, None, "served", "float32", _OPSET, ("onnx",))
    entry = architecture("edgetam")
    info = ModelInfo(UNTRAINED_LICENCE, trained=False, training_data="none")
    manifest = made_manifest(entry, files, name=name, info=info, encoder=entry.encoder, upsample_mode=None)
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest))
    return folder


def small_maps(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return tokens, s1 and s0 that the small encoder makes of an image (3, 1024, 1024)."""
    flat, third = image.reshape(-1), 1 << 20
    return (
        flat[:third].reshape(4096, 256), flat[third : 2 * third].reshape(4096, 256), flat[third:].reshape(4096, 512)
    )  # fmt: skip


def write_encoder(path: Path, *, batch: int | str = "batch") -> Path:
    """Write an encoder whose tokens, s1 and s0 are the pixels of the image, in this order.

    Args:
        path: File of the graph.
        batch: Number of images in a call, or a name for any number.
    """
    ends = {"tokens": (0, 1 << 20, 256), "high_res_s1": (1 << 20, 2 << 20, 256), "high_res_s0": (1 << 20, 3 << 20, 512)}
    nodes = [helper.make_node("Flatten", ["image"], ["flat"], axis=1)]
    constants = {"one": [1]}
    for name, (start, end, columns) in ends.items():
        constants |= {f"{name}_start": [start], f"{name}_end": [end], f"{name}_shape": [-1, 4096, columns]}
        nodes += [
            helper.make_node("Slice", ["flat", f"{name}_start", f"{name}_end", "one"], [f"{name}_flat"]),
            helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]),
        ]
    outputs = {name: [batch, 4096, columns] for name, (_, _, columns) in ends.items()}
    return _write(path, nodes, constants, {"image": [batch, 3, 1024, 1024]}, outputs)


def write_prepare(path: Path) -> Path:
    """Write a graph whose keys are the tokens plus the mean of the mask; keys0 and queries0 are its two parts."""
    nodes = [
        helper.make_node("ReduceMean", ["mask_logits"], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Add", ["tokens", "mean"], ["keys"]),
        helper.make_node("Slice", ["keys", "zero", "middle", "two"], ["keys0"]),
        helper.make_node("Slice", ["keys", "middle", "whole", "two"], ["queries0"]),
    ]
    constants = {"zero": [0], "middle": [128], "whole": [256], "two": [2]}
    inputs = {"tokens": [4096, 256], "mask_logits": ["S", 256, 256], "has_mask": ["S"]}
    outputs = {"keys": ["S", 4096, 256], "keys0": ["S", 4096, 128], "queries0": ["S", 4096, 128]}
    return _write(path, nodes, constants, inputs, outputs)


def write_decoder(path: Path) -> Path:
    """Write a decoder whose answers show the maps.

    All masks are the first 512 rows of s0, plus the mean of the points. Predicted IoU is the mean of s1, stability that
    of the keys, and narrow stability that of the points.
    """
    nodes = [
        helper.make_node("ReduceMean", ["points"], ["points_mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Reshape", ["points_mean", "column"], ["per_prompt"]),
        helper.make_node("Mul", ["per_prompt", "zeros"], ["nothing"]),
        helper.make_node("Reshape", ["points_mean", "row"], ["narrow_stability"]),
        helper.make_node("ReduceMean", ["high_res_s1"], ["s1_mean"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Add", ["nothing", "s1_mean"], ["iou_predictions"]),
        helper.make_node("ReduceMean", ["keys"], ["keys_mean"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Add", ["nothing", "keys_mean"], ["stability"]),
        helper.make_node("Slice", ["high_res_s0", "zero", "rows", "one"], ["some"]),
        helper.make_node("Reshape", ["some", "masks"], ["planes"]),
        helper.make_node("Reshape", ["points_mean", "pixel"], ["per_mask"]),
        helper.make_node("Add", ["planes", "per_mask"], ["mask_logits"]),
    ]
    constants = {
        "column": [-1, 1], "row": [-1], "pixel": [-1, 1, 1, 1], "masks": [1, 4, 256, 256], "zero": [0], "rows": [512],
        "one": [1], "zeros": np.zeros((1, 4), np.float32),
    }  # fmt: skip
    inputs = {
        "points": ["P", "N", 2], "labels": ["P", "N"], "keys": ["S", 4096, 256], "keys0": ["S", 4096, 128],
        "queries0": ["S", 4096, 128], "high_res_s1": [1, 4096, 256], "high_res_s0": [1, 4096, 512],
    }  # fmt: skip
    outputs = {
        "mask_logits": ["P", 4, 256, 256], "iou_predictions": ["P", 4], "stability": ["P", 4], "narrow_stability": ["P"]
    }  # fmt: skip
    return _write(path, nodes, constants, inputs, outputs)


def _write(path, nodes, constants, inputs, outputs) -> Path:
    types = {"labels": TensorProto.INT64, "has_mask": TensorProto.BOOL}
    describe = lambda values: [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape) for name, shape in values.items()
    ]
    arrays = [
        numpy_helper.from_array(np.asarray(value, None if isinstance(value, np.ndarray) else np.int64), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, path.stem, describe(inputs), describe(outputs), arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    checker.check_model(model)
    save(model, path)
    return path
