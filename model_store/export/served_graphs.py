"""The three graphs that are served, ready to be traced: modules, example inputs and names of inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_store.export.graph_names import decoder_outputs, encoder_outputs, map_names
from model_store.export.graphs.decoder import DecoderGraph
from model_store.export.graphs.encoder import EncoderGraph, EncoderWithBoxesGraph, HighResEncoderGraph
from model_store.export.graphs.positions import IMAGE_TOKENS
from model_store.export.graphs.prepare import PrepareGraph
from model_store.export.graphs.sam2_decoder import SAM2DecoderGraph
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from service.manifest import STATE_NAMES

OPSET = 17
"""Opset of all graphs but the encoder's, which the encoder states."""


@dataclass(frozen=True, slots=True)
class TraceableGraph:
    """A module with everything that tracing it needs.

    Args:
        module: Module to trace.
        example: Example of its inputs. Sizes along axes without a name become a part of the graph.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        axes: Names of the free axes of inputs and outputs, by name and axis.
        opset: Version of ONNX's operators.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Mapping[str, Mapping[int, str]]
    opset: int = OPSET


def encoder_graph(model: PromptableModel, module: GranularityModule | None = None) -> TraceableGraph:
    """Return the encoder graph: with boxes beside the tokens if there is a granularity module, with maps for SAM 2."""
    encoder: nn.Module
    if model.architecture.mask_decoder == "sam2":
        outputs, encoder = encoder_outputs("sam2"), HighResEncoderGraph(model)
    elif module is None:
        outputs, encoder = ["tokens"], EncoderGraph(model)
    else:
        outputs, encoder = ["tokens", "boxes", "scores"], EncoderWithBoxesGraph(model, module)
    # Names of free axes show in error messages of ONNX Runtime, and are a part of published files.
    axes = {name: {0: "pictures"} for name in ("image", *outputs)}
    return TraceableGraph(encoder, (black_image(model),), ["image"], outputs, axes, model.image_encoder.opset)


def prepare_graph(model: PromptableModel) -> TraceableGraph:
    """Return the graph that computes an image state."""
    mask_logits, has_mask = torch.zeros(2, 256, 256), torch.tensor([False, True])
    return TraceableGraph(
        PrepareGraph(model),
        (torch.zeros(IMAGE_TOKENS, 256), mask_logits, has_mask),
        ["tokens", "mask_logits", "has_mask"],
        STATE_NAMES,
        {name: {0: "states"} for name in ("mask_logits", "has_mask", *STATE_NAMES)},
    )


def decoder_graph(model: PromptableModel) -> TraceableGraph:
    """Return the graph that decodes prompts."""
    kind = model.architecture.mask_decoder
    points, labels = torch.zeros(2, 3, 2), torch.tensor([[1, 0, -1], [2, 3, -3]])
    state = tuple(torch.zeros(2, IMAGE_TOKENS, channels) for channels in (256, 128, 128))
    maps = tuple(torch.zeros(1, IMAGE_TOKENS, channels) for channels in (256, 512)) if kind == "sam2" else ()
    outputs = decoder_outputs(kind)
    axes = {
        **{name: {0: "prompts", 1: "points"} for name in ("points", "labels")},
        **{name: {0: "states"} for name in STATE_NAMES},
        **{name: {0: "prompts"} for name in outputs},
    }
    return TraceableGraph(
        SAM2DecoderGraph(model) if kind == "sam2" else DecoderGraph(model),
        (points, labels, *state, *maps),
        ["points", "labels", *STATE_NAMES, *map_names(kind)],
        outputs,
        axes,
    )


def black_image(model: PromptableModel) -> Tensor:
    """Return an input of the encoder, (1, 3, S, S)."""
    return torch.zeros(1, 3, model.image_size, model.image_size)
