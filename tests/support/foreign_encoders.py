"""ONNX encoders as other programs write them, of one convolution for each output, and their import."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from support.random_model import random_model

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from model_store.export.encoder_import import convert_encoder
from model_store.export.model_info import ModelInfo

INFO = ModelInfo(licence="none", trained=True, training_data="not stated")
FREE = "batch"


def write_sam_decoder(path: Path) -> Path:
    """Write the prompt encoder and mask decoder of a checkpoint of SAM's family, alone."""
    state = {key: value for key, value in random_model().state_dict().items() if not key.startswith("image_encoder.")}
    torch.save(state, path)
    return path


def kernel(side, spread):
    """A convolution of non-overlapping squares, (256, 3, side/64, side/64)."""
    cell = side // 64
    values = np.random.default_rng(0).normal(0, spread, (256, 3, cell, cell))
    return values.astype(np.float32)


def encoder(path, shape, *, side=1024, spread=0.1, before=(), output=(1, 256, 64, 64), kind=TensorProto.FLOAT, more=()):
    """Write an encoder of one convolution.

    Args:
        path: File to write.
        shape: Shape of the input `x`.
        side: Side of the images, in pixels.
        spread: Standard deviation of the kernel.
        before: Nodes from `x` to `frame`; none for an input that is the frame.
        output: Declared shape of the output.
        kind: Number format of the input.
        more: Names of further outputs.
    """
    cell = side // 64
    nodes = [*before, helper.make_node("Conv", ["frame" if before else "x", "w"], ["y"], strides=[cell, cell])]
    nodes += [helper.make_node("Identity", ["y"], [name]) for name in more]
    weights = [
        numpy_helper.from_array(kernel(side, spread), "w"),
        numpy_helper.from_array(np.array(PIXEL_MEAN, np.float32).reshape(1, 3, 1, 1), "mean"),
        numpy_helper.from_array(np.array(PIXEL_STD, np.float32).reshape(1, 3, 1, 1), "std"),
        numpy_helper.from_array(np.array([0], np.int64), "axis"),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output) for name in ("y", *more)],
        [weight for weight in weights if weight.name in used],
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def convert(path, decoder, directory, **options):
    warnings = []
    manifest = convert_encoder(path, decoder, directory, name="mine", info=INFO, on_warning=warnings.append, **options)
    return manifest, warnings


def images(count, side=1024):
    return np.random.default_rng(1).normal(0, 1, (count, 3, side, side)).astype(np.float32)
