"""Checks the graph of somebody's encoder and gives it the inputs and outputs of this service.

The result takes `image` (B, 3, S, S), normalised, and gives `tokens` (B, 4096, 256), for SAM 2's decoder with the two
high-resolution maps.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_store.architectures import PIXEL_MEAN, PIXEL_STD, ImageSize, MaskDecoder
from model_store.checkpoint_files.errors import first_line
from model_store.export.foreign_outputs import (
    EncoderError,
    ForeignOutput,
    declared_sizes,
    foreign_outputs,
    shape_text,
    value_names,
)

InputLayout = Literal["frame", "image"]

MAX_ENCODER_BYTES = 2**31 - 2**24
MAX_RUN_S = 600.0
"""Longest run of an encoder on one image. A graph with a loop may never end."""

# Operators of ONNX itself, and those of ONNX Runtime that quantised encoders have.
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_PREFIX = "encoder/"


@dataclass(frozen=True, slots=True)
class WrappedEncoder:
    """An encoder with the inputs and outputs of this service.

    Args:
        model: The graph.
        image_size: Side of its input, in pixels.
        is_batched: Whether it takes several images at once.
        spread: Standard deviation over the channels of its tokens for a grey image.
    """

    model: onnx.ModelProto
    image_size: ImageSize
    is_batched: bool
    spread: float


@dataclass(frozen=True, slots=True)
class _Input:
    """The input of the original graph.

    Args:
        name: Its name.
        rank: 4, or 3 for one image without a batch axis.
        is_channels_last: Whether channels are the last axis.
        side: Side in pixels, if the graph fixes it.
        has_free_batch: Whether the graph leaves the batch axis free.
    """

    name: str
    rank: int
    is_channels_last: bool
    side: int | None
    has_free_batch: bool


def wrapped_encoder(
    path: Path,
    mask_decoder: MaskDecoder,
    *,
    image_size: ImageSize | None,
    input_layout: InputLayout,
    on_progress: Callable[[str], None],
) -> WrappedEncoder:
    """Read an encoder, wrap it, and run it on a grey image.

    Args:
        path: ONNX file.
        mask_decoder: Kind of the decoder that reads the outputs.
        image_size: Side of the encoder's input, in pixels; None takes the one that the graph fixes.
        input_layout: What the encoder takes, see `convert_encoder`.
        on_progress: Callback that receives each step as a short text.

    Raises:
        OSError: The file cannot be read.
        EncoderError: The graph is damaged, has other inputs or outputs, does not run, or takes too long.
    """
    model = _load(path)
    found = _input_of(model, input_layout)
    side = _side(found, image_size)
    outputs = foreign_outputs(list(model.graph.output), mask_decoder)
    on_progress("running the encoder on a grey image")
    is_batched = found.has_free_batch and _runs(
        _wrapped(model, found, outputs, side, input_layout, batch=None), outputs, side, 2
    )
    wrapped = _wrapped(model, found, outputs, side, input_layout, batch=None if is_batched else 1)
    results = _run(wrapped, outputs, side, 1)
    for output, values in zip(outputs, results, strict=True):
        if values.shape != (1, *output.rows):
            raise EncoderError(f"the encoder's output is not {shape_text((1, *output.shape))}")
        if not np.isfinite(values).all():
            raise EncoderError("the encoder's output for a grey image is not finite")
    return WrappedEncoder(wrapped, side, is_batched, float(results[0].std(axis=2).mean()))


def _load(path: Path) -> onnx.ModelProto:
    if path.stat().st_size > MAX_ENCODER_BYTES:
        raise EncoderError(f"{path} is larger than the 2 GiB of an ONNX file")
    try:
        model = onnx.load(str(path))
    except OSError:
        raise
    except Exception as error:  # protobuf and onnx raise many types of their own; all mean the same here
        raise EncoderError(f"{path} is not a readable ONNX file: {first_line(error)}") from error
    if foreign := sorted({node.domain for node in model.graph.node} - _DOMAINS):
        raise EncoderError(f"{path} has operators of {foreign[0]!r}, which ONNX Runtime alone does not have")
    if not model.graph.node:
        raise EncoderError(f"{path} is not a readable ONNX file: it has no graph")
    if not any(entry.domain in {"", "ai.onnx"} for entry in model.opset_import):
        raise EncoderError(f"{path} does not state the version of ONNX's operators")
    return model


def _input_of(model: onnx.ModelProto, layout: InputLayout) -> _Input:
    if layout not in get_args(InputLayout):
        raise EncoderError(f"the input layout is frame or image, not {layout!r}")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise EncoderError(f"the encoder has {len(inputs)} inputs ({value_names(inputs)}), not one image")
    (value,) = inputs
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        number = value.type.tensor_type.elem_type
        kind = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"the type {number}"
        raise EncoderError(f"the encoder's input {value.name!r} is of {kind}, not of float32")
    sizes = declared_sizes(value)
    batch: int | None = 1
    if len(sizes) == 3 and sizes[2] == 3 and layout == "image":
        sides, is_last = sizes[:2], True
    elif len(sizes) == 4 and sizes[1] == 3:
        batch, sides, is_last = sizes[0], sizes[2:], False
    elif len(sizes) == 4 and sizes[3] == 3 and layout == "image":
        batch, sides, is_last = sizes[0], sizes[1:3], True
    else:
        expected = "(B, 3, S, S)" if layout == "frame" else "(B, 3, S, S), (B, S, S, 3) or (H, W, 3)"
        raise EncoderError(
            f"the encoder's input {value.name!r} has the shape {shape_text(sizes)}; {layout} is {expected}"
        )
    if batch not in {None, 1}:
        raise EncoderError(f"the encoder takes {batch} images at a time; one, or any number, is needed")
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise EncoderError(f"the encoder's input {value.name!r} is not square: {shape_text(sizes)}")
    return _Input(value.name, len(sizes), is_last, next(iter(known), None), batch is None)


def _side(found: _Input, image_size: ImageSize | None) -> ImageSize:
    side = image_size or found.side
    if side is None:
        raise EncoderError("the encoder takes images of any size: state the side it was trained with by --image-size")
    if found.side not in {None, side}:
        raise EncoderError(f"the encoder takes {found.side} pixels, not {side}: leave --image-size out")
    if side not in get_args(ImageSize):
        raise EncoderError(f"the encoder takes {side} pixels; this service prepares images of 512 or 1024")
    return 512 if side == 512 else 1024


def _wrapped(
    model: onnx.ModelProto,
    found: _Input,
    outputs: Sequence[ForeignOutput],
    side: int,
    layout: InputLayout,
    *,
    batch: int | None,
) -> onnx.ModelProto:
    """Return a copy with the service's input before the original graph and its outputs behind it."""
    wrapped = onnx.compose.add_prefix(model, _PREFIX)
    graph = wrapped.graph
    constants: dict[str, NDArray[Any]] = {
        "image/std": np.array(PIXEL_STD, np.float32).reshape(1, 3, 1, 1),
        "image/mean": np.array(PIXEL_MEAN, np.float32).reshape(1, 3, 1, 1),
        "image/shape": np.array([side, side, 3], np.int64),
    }
    before, last = [], "image"
    if layout == "image":  # the padding is 0 after the normalisation, so it is the mean before it
        before += [
            helper.make_node("Mul", ["image", "image/std"], ["image/scaled"]),
            helper.make_node("Add", ["image/scaled", "image/mean"], ["image/pixels"]),
        ]
        last = "image/pixels"
    if found.is_channels_last:
        before.append(helper.make_node("Transpose", [last], ["image/last"], perm=[0, 2, 3, 1]))
        last = "image/last"
    if found.rank == 3:
        before.append(helper.make_node("Reshape", [last, "image/shape"], ["image/one"]))
        last = "image/one"
    before.append(helper.make_node("Identity", [last], [_PREFIX + found.name]))
    after = []
    for output in outputs:
        after += output.nodes(_PREFIX)
        constants |= output.constants
    nodes = [*before, *graph.node, *after]
    used = {name for node in nodes for name in node.input}
    others = [value for value in graph.input if value.name != _PREFIX + found.name]
    del graph.input[:], graph.output[:], graph.node[:]
    axis: int | str = "images" if batch is None else batch
    graph.input.extend([helper.make_tensor_value_info("image", TensorProto.FLOAT, [axis, 3, side, side]), *others])
    graph.output.extend(
        helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [axis, *output.rows]) for output in outputs
    )
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items() if name in used)
    return wrapped


def _runs(model: onnx.ModelProto, outputs: Sequence[ForeignOutput], side: int, count: int) -> bool:
    """Return whether a graph takes a number of images; a free batch axis may be a mistake of the exporter."""
    try:
        results = _run(model, outputs, side, count)
    except EncoderError:
        return False
    return [values.shape for values in results] == [(count, *output.rows) for output in outputs]


def _run(model: onnx.ModelProto, outputs: Sequence[ForeignOutput], side: int, count: int) -> list[NDArray[np.float32]]:
    """Return the outputs for grey images.

    Raises:
        EncoderError: The graph does not load or run, or takes longer than `MAX_RUN_S`.
    """
    options, run_options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(MAX_RUN_S, _terminate, [run_options])
    timer.daemon = True
    timer.start()
    grey = ((127.0 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).astype(np.float32).reshape(1, 3, 1, 1)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        images = np.broadcast_to(grey, (count, 3, side, side)).copy()
        names = [output.name for output in outputs]
        results: list[NDArray[np.float32]] = session.run(names, {"image": images}, run_options)
    except Exception as error:  # ONNX Runtime raises many types of its own; all mean the same here
        raise EncoderError(f"the encoder does not run on {count} grey image(s): {first_line(error)}") from error
    finally:
        timer.cancel()
    return results


def _terminate(run_options: Any) -> None:
    run_options.terminate = True
