"""Modules as ONNX files, as encoders are exported: traced, with a free batch axis and without folded constants.

And what ONNX Runtime makes of them.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch


def write_traced(
    module: torch.nn.Module, example: torch.Tensor, path: Path, *, opset: int = 17, outputs: Sequence[str] = ("y",)
) -> onnx.ModelProto:
    """Write the graph of a module with the input `x`, and return it.

    Args:
        module: Module of one input.
        example: Input, (B, ...).
        path: File to write.
        opset: ONNX opset of the graph.
        outputs: Names of the module's outputs.
    """
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and shapes are constants on purpose
        torch.onnx.export(
            module.eval(), (example,), str(path), input_names=["x"], output_names=list(outputs), opset_version=opset,
            dynamic_axes={name: {0: "batch"} for name in ["x", *outputs]}, do_constant_folding=False, dynamo=False,
        )  # fmt: skip
    return onnx.load(str(path))


def session_nodes(graph: Path, folder: Path) -> Counter[str]:
    """Return the number of nodes of each kind that ONNX Runtime computes for a graph on the CPU.

    Args:
        graph: ONNX file of the graph.
        folder: Folder for the graph as the session has it.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
