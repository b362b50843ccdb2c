"""Exports networks as ONNX files: the three graphs that are served, or EdgeSAM's published pair."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from model_store.export.graphs.decoder import DecoderGraph
from model_store.export.graphs.encoder import EncoderGraph, EncoderWithBoxesGraph
from model_store.export.graphs.official import OfficialDecoder, OfficialEncoder
from model_store.export.graphs.positions import IMAGE_TOKENS
from model_store.export.graphs.prepare import PrepareGraph
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from service.manifest import STATE_NAMES

OPSET = 17


def write_served_graphs(
    model: PromptableModel, module: GranularityModule | None, folder: Path, on_progress: Callable[[str], None]
) -> dict[str, Path]:
    """Write the three graphs of the service.

    Args:
        model: Deployed model.
        module: Granularity module whose boxes the encoder graph also returns; None for none.
        folder: Folder of the files.
        on_progress: Callback that receives each step as a short text.

    Returns:
        Paths of the files by the graphs' names in the manifest.
    """
    file = folder / "encoder.onnx"
    on_progress("exporting the encoder")
    outputs = ["tokens"] if module is None else ["tokens", "boxes", "scores"]
    encoder = EncoderGraph(model) if module is None else EncoderWithBoxesGraph(model, module)
    # Names of free axes show in error messages of ONNX Runtime, and are a part of published files.
    _export(encoder, (_black(model),), file, ["image"], outputs,
            {name: {0: "pictures"} for name in ("image", *outputs)})  # fmt: skip
    return {"encoder": file, **write_prompt_graphs(model, folder, on_progress)}


def write_prompt_graphs(model: PromptableModel, folder: Path, on_progress: Callable[[str], None]) -> dict[str, Path]:
    """Write the graphs `prepare` and `decoder`, which do not depend on the image encoder.

    Args:
        model: Deployed model.
        folder: Folder of the files.
        on_progress: Callback that receives each step as a short text.

    Returns:
        Paths of the files by the graphs' names in the manifest.
    """
    tokens = torch.zeros(IMAGE_TOKENS, 256)
    mask_logits, has_mask = torch.zeros(2, 256, 256), torch.tensor([False, True])
    prepare = PrepareGraph(model)
    with torch.inference_mode():
        state = prepare(tokens, mask_logits, has_mask)
    points, labels = torch.zeros(2, 3, 2), torch.tensor([[1, 0, -1], [2, 3, -3]])
    per_state = {name: {0: "states"} for name in STATE_NAMES}
    files = {name: folder / f"{name}.onnx" for name in ("prepare", "decoder")}
    on_progress("exporting prepare")
    _export(prepare, (tokens, mask_logits, has_mask), files["prepare"], ["tokens", "mask_logits", "has_mask"],
            STATE_NAMES, {"mask_logits": {0: "states"}, "has_mask": {0: "states"}, **per_state})  # fmt: skip
    on_progress("exporting the decoder")
    outputs = ["mask_logits", "iou_predictions", "stability"]
    axes = {"points": {0: "prompts", 1: "points"}, "labels": {0: "prompts", 1: "points"}, **per_state}
    _export(DecoderGraph(model), (points, labels, *state), files["decoder"], ["points", "labels", *STATE_NAMES],
            outputs, {**axes, **{output: {0: "prompts"} for output in outputs}})  # fmt: skip
    return files


def write_official_graphs(
    model: PromptableModel, folder: Path, name: str, on_progress: Callable[[str], None]
) -> dict[str, Path]:
    """Write the pair of graphs that EdgeSAM publishes.

    Args:
        model: Deployed model.
        folder: Folder of the files.
        name: Name of the model, with which the file names begin.
        on_progress: Callback that receives each step as a short text.

    Returns:
        Paths of the files by the graphs' names in the manifest.
    """
    files = {part: folder / f"{name}_{part}.onnx" for part in ("encoder", "decoder")}
    on_progress("exporting the official encoder")
    _export(OfficialEncoder(model), (_black(model),), files["encoder"],
            ["image"], ["image_embeddings"], {})  # fmt: skip
    on_progress("exporting the official decoder")
    _export(OfficialDecoder(model, use_stability_score=True),
            (torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2)), files["decoder"],
            ["image_embeddings", "point_coords", "point_labels"], ["scores", "masks"],
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}})  # fmt: skip
    return files


def _black(model: PromptableModel) -> Tensor:
    """Return an input of the encoder, (1, 3, S, S)."""
    return torch.zeros(1, 3, model.image_size, model.image_size)


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated in favour of the dynamo exporter. That one needs one more dependency and
        # names the nodes of the same graph differently from release to release. The tracer's own warnings are about
        # shapes that are fixed by design.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), example, str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes={key: dict(axes) for key, axes in dynamic_axes.items()}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))
