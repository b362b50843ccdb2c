"""The outputs of somebody's encoder: which is which, and how each gets the layout of this service.

Other exporters write SAM 2's maps under names of their own, but all have the same shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto, helper

from model_store.architectures import MaskDecoder
from model_store.errors import ModelStoreError
from model_store.export.graph_names import encoder_outputs

Sizes = tuple[int | None, ...]


class EncoderError(ModelStoreError):
    """The graph is no encoder that this service can use; the message names what is different."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an output of this service comes from a map.

    Args:
        shape: Shape of the map without the batch axis: channels, height and width.
        split: The same numbers with height and width split into image tokens and the pixels of one.
        order: Order of the axes of the batch and of `split` in which the rows are written.
        rows: Shape of the output without the batch axis.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    rows: tuple[int, ...]


# As `HighResEncoderGraph` writes them.
_LAYOUTS: Mapping[str, _Layout] = {
    "tokens": _Layout((256, 64, 64), (256, 4096), (0, 2, 1), (4096, 256)),
    "high_res_s1": _Layout((64, 128, 128), (64, 64, 2, 64, 2), (0, 2, 4, 3, 5, 1), (4096, 256)),
    "high_res_s0": _Layout((32, 256, 256), (32, 64, 2, 2, 64, 2, 2), (0, 2, 5, 3, 6, 1, 4, 7), (4096, 512)),
}
_MAPS = ", ".join(f"(B, {', '.join(map(str, layout.shape))})" for layout in _LAYOUTS.values())


@dataclass(frozen=True, slots=True)
class ForeignOutput:
    """An output of the original graph and the output of this service that is made from it.

    Args:
        source: Its name in the original graph.
        name: Its name in this service.
    """

    source: str
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the original graph, without the batch axis."""
        return _LAYOUTS[self.name].shape

    @property
    def rows(self) -> tuple[int, ...]:
        """Shape in this service, without the batch axis."""
        return _LAYOUTS[self.name].rows

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """The constants of `nodes`, by name."""
        layout = _LAYOUTS[self.name]
        shapes = {"split": layout.split, "rows": layout.rows}
        return {f"{self.name}/{key}": np.array([0, *shape], np.int64) for key, shape in shapes.items()}

    def nodes(self, prefix: str) -> list[NodeProto]:
        """Return the nodes from the original output to that of this service.

        Args:
            prefix: Prefix of the original graph's names.
        """
        name = self.name
        return [
            helper.make_node("Reshape", [prefix + self.source, f"{name}/split"], [f"{name}/axes"]),
            helper.make_node("Transpose", [f"{name}/axes"], [f"{name}/ordered"], perm=_LAYOUTS[name].order),
            helper.make_node("Reshape", [f"{name}/ordered", f"{name}/rows"], [name]),
        ]


def foreign_outputs(outputs: Sequence[ValueInfoProto], mask_decoder: MaskDecoder) -> list[ForeignOutput]:
    """Return the outputs that the decoder reads, in the order of this service.

    Args:
        outputs: Outputs of the original graph.
        mask_decoder: Kind of the decoder.

    Raises:
        EncoderError: There are more or fewer outputs, or others; the message states their shapes.
    """
    if mask_decoder == "sam2":
        return _sam2_outputs(outputs)
    if len(outputs) != 1:
        hint = " If it is an encoder of SAM 2's family, give --decoder a checkpoint of that family."
        raise EncoderError(
            f"the encoder has {len(outputs)} outputs ({value_names(outputs)}); SAM's decoder reads one image embedding."
            + (hint if len(outputs) == len(_LAYOUTS) else "")
        )
    (value,) = outputs
    sizes = declared_sizes(value)
    if sizes and not _fits(sizes, _LAYOUTS["tokens"]):
        raise EncoderError(
            f"the encoder's output {value.name!r} has the shape {shape_text(sizes)}, not (B, 256, 64, 64)"
        )
    return [ForeignOutput(str(value.name), "tokens")]


def _sam2_outputs(outputs: Sequence[ValueInfoProto]) -> list[ForeignOutput]:
    found = [
        ForeignOutput(str(value.name), name)
        for name in encoder_outputs("sam2")
        for value in outputs
        if _is(name, declared_sizes(value))
    ]
    if len(outputs) != len(_LAYOUTS) or [output.name for output in found] != encoder_outputs("sam2"):
        shapes = ", ".join(f"{value.name[:40]} {shape_text(declared_sizes(value))}" for value in outputs[:5])
        raise EncoderError(
            f"the encoder has the outputs {shapes}; the decoder of SAM 2's family reads one of each of {_MAPS}"
        )
    return found


def _is(name: str, sizes: Sizes) -> bool:
    """Return whether a declared shape is that of an output of this service; at least the channels are stated."""
    return _fits(sizes, _LAYOUTS[name]) and sizes[1] is not None


def _fits(sizes: Sizes, layout: _Layout) -> bool:
    """Return whether a declared shape may be that of a map with a batch axis. The run shows the free sizes."""
    expected = (1, *layout.shape)
    return len(sizes) == 4 and all(size in {None, want} for size, want in zip(sizes, expected, strict=True))


def declared_sizes(value: ValueInfoProto) -> Sizes:
    """Return the sizes of a value's axes, None for free ones; empty where the shape is not stated."""
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in value.type.tensor_type.shape.dim
    )


def shape_text(sizes: Sizes) -> str:
    """Return a shape for messages."""
    return "(" + ", ".join("free" if size is None else str(size) for size in sizes) + ")"


def value_names(values: Sequence[ValueInfoProto]) -> str:
    """Return the first names of inputs or outputs for messages, none of any length."""
    return ", ".join(value.name[:40] for value in values[:5])
