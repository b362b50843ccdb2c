"""Checks the graph of somebody's encoder and gives it the inputs and outputs of this service.

The result takes `image` (B, 3, S, S), normalised and padded, and gives `tokens` (B, 4096, 256).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from model_store.architectures import PIXEL_MEAN, PIXEL_STD, ImageSize
from model_store.catalog import ModelStoreError
from model_store.checkpoint_files.errors import first_line

InputLayout = Literal["frame", "image"]

MAX_ENCODER_BYTES = 2**31 - 2**24
MAX_RUN_S = 600.0
"""Longest run of an encoder on one image. A graph with a loop may never end."""

# Operators of ONNX itself, and those of ONNX Runtime that quantised encoders have.
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_CHANNELS, _GRID = 256, 64
_PREFIX = "encoder/"


class EncoderError(ModelStoreError):
    """The graph is no encoder that this service can use; the message names what is different."""


@dataclass(frozen=True, slots=True)
class WrappedEncoder:
    """An encoder with the inputs and outputs of this service.

    Args:
        model: The graph.
        image_size: Side of its input, in pixels.
        is_batched: Whether it takes several images at once.
        spread: Standard deviation over the channels of its output for a grey image.
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
    path: Path, *, image_size: ImageSize | None, input_layout: InputLayout, on_progress: Callable[[str], None]
) -> WrappedEncoder:
    """Read an encoder, wrap it, and run it on a grey image.

    Args:
        path: ONNX file.
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
    output = _output_of(model)
    on_progress("running the encoder on a grey image")
    is_batched = found.has_free_batch and _runs(_wrapped(model, found, output, side, input_layout, batch=None), side, 2)
    wrapped = _wrapped(model, found, output, side, input_layout, batch=None if is_batched else 1)
    tokens = _run(wrapped, side, 1)
    if tokens.shape != (1, _GRID * _GRID, _CHANNELS):
        raise EncoderError(f"the encoder's output is not (1, {_CHANNELS}, {_GRID}, {_GRID})")
    if not np.isfinite(tokens).all():
        raise EncoderError("the encoder's output for a grey image is not finite")
    return WrappedEncoder(wrapped, side, is_batched, float(tokens.std(axis=2).mean()))


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
        raise EncoderError(f"the encoder has {len(inputs)} inputs ({_names(inputs)}), not one image")
    (value,) = inputs
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        number = value.type.tensor_type.elem_type
        kind = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"the type {number}"
        raise EncoderError(f"the encoder's input {value.name!r} is of {kind}, not of float32")
    sizes = _sizes(value)
    batch: int | None = 1
    if len(sizes) == 3 and sizes[2] == 3 and layout == "image":
        sides, is_last = sizes[:2], True
    elif len(sizes) == 4 and sizes[1] == 3:
        batch, sides, is_last = sizes[0], sizes[2:], False
    elif len(sizes) == 4 and sizes[3] == 3 and layout == "image":
        batch, sides, is_last = sizes[0], sizes[1:3], True
    else:
        expected = "(B, 3, S, S)" if layout == "frame" else "(B, 3, S, S), (B, S, S, 3) or (H, W, 3)"
        raise EncoderError(f"the encoder's input {value.name!r} has the shape {_text(sizes)}; {layout} is {expected}")
    if batch not in {None, 1}:
        raise EncoderError(f"the encoder takes {batch} images at a time; one, or any number, is needed")
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise EncoderError(f"the encoder's input {value.name!r} is not square: {_text(sizes)}")
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


def _output_of(model: onnx.ModelProto) -> str:
    outputs = list(model.graph.output)
    if len(outputs) != 1:
        raise EncoderError(
            f"the encoder has {len(outputs)} outputs ({_names(outputs)}); a decoder of the family reads one image "
            "embedding"
        )
    sizes = _sizes(outputs[0])
    expected = (1, _CHANNELS, _GRID, _GRID)
    if sizes and (len(sizes) != 4 or any(size not in {None, want} for size, want in zip(sizes, expected, strict=True))):
        raise EncoderError(
            f"the encoder's output {outputs[0].name!r} has the shape {_text(sizes)}, not (B, {_CHANNELS}, {_GRID}, "
            f"{_GRID})"
        )
    return str(outputs[0].name)


def _wrapped(
    model: onnx.ModelProto, found: _Input, output: str, side: int, layout: InputLayout, *, batch: int | None
) -> onnx.ModelProto:
    """Return a copy with the service's input before the original graph and its output behind it."""
    wrapped = onnx.compose.add_prefix(model, _PREFIX)
    graph = wrapped.graph
    constants: dict[str, NDArray[Any]] = {
        "image/std": np.array(PIXEL_STD, np.float32).reshape(1, 3, 1, 1),
        "image/mean": np.array(PIXEL_MEAN, np.float32).reshape(1, 3, 1, 1),
        "image/shape": np.array([side, side, 3], np.int64),
        "tokens/shape": np.array([0, _CHANNELS, _GRID * _GRID], np.int64),
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
    after = [
        helper.make_node("Reshape", [_PREFIX + output, "tokens/shape"], ["tokens/flat"]),
        helper.make_node("Transpose", ["tokens/flat"], ["tokens"], perm=[0, 2, 1]),
    ]
    nodes = [*before, *graph.node, *after]
    used = {name for node in nodes for name in node.input}
    others = [value for value in graph.input if value.name != _PREFIX + found.name]
    del graph.input[:], graph.output[:], graph.node[:]
    axis: int | str = "images" if batch is None else batch
    graph.input.extend([helper.make_tensor_value_info("image", TensorProto.FLOAT, [axis, 3, side, side]), *others])
    graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [axis, _GRID * _GRID, _CHANNELS]))
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items() if name in used)
    return wrapped


def _runs(model: onnx.ModelProto, side: int, count: int) -> bool:
    """Return whether a graph takes a number of images; a free batch axis may be a mistake of the exporter."""
    try:
        return _run(model, side, count).shape == (count, _GRID * _GRID, _CHANNELS)
    except EncoderError:
        return False


def _run(model: onnx.ModelProto, side: int, count: int) -> NDArray[np.float32]:
    """Return the tokens of grey images.

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
        tokens: NDArray[np.float32] = session.run(["tokens"], {"image": images}, run_options)[0]
    except Exception as error:  # ONNX Runtime raises many types of its own; all mean the same here
        raise EncoderError(f"the encoder does not run on {count} grey image(s): {first_line(error)}") from error
    finally:
        timer.cancel()
    return tokens


def _terminate(run_options: Any) -> None:
    run_options.terminate = True


def _sizes(value: ValueInfoProto) -> tuple[int | None, ...]:
    """Return the sizes of a value's axes, None for free ones."""
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in value.type.tensor_type.shape.dim
    )


def _text(sizes: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("free" if size is None else str(size) for size in sizes) + ")"


def _names(values: list[ValueInfoProto]) -> str:
    return ", ".join(value.name[:40] for value in values[:5])
