"""Exports networks as ONNX files: the three graphs that are served, or EdgeSAM's published pair."""

import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from model_store.export.graphs.official import OfficialDecoder, OfficialEncoder
from model_store.export.served_graphs import (
    TraceableGraph,
    black_image,
    decoder_graph,
    encoder_graph,
    prepare_graph,
)
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel


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
    export_graph(encoder_graph(model, module), file)
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
    files = {name: folder / f"{name}.onnx" for name in ("prepare", "decoder")}
    on_progress("exporting prepare")
    export_graph(prepare_graph(model), files["prepare"])
    on_progress("exporting the decoder")
    export_graph(decoder_graph(model), files["decoder"])
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
    encoder = TraceableGraph(OfficialEncoder(model), (black_image(model),), ["image"], ["image_embeddings"], {})
    export_graph(encoder, files["encoder"])
    on_progress("exporting the official decoder")
    points = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
    example = (torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2))
    decoder = TraceableGraph(
        OfficialDecoder(model, use_stability_score=True), example,
        ["image_embeddings", "point_coords", "point_labels"], ["scores", "masks"], points,
    )  # fmt: skip
    export_graph(decoder, files["decoder"])
    return files


def export_graph(graph: TraceableGraph, path: Path, *, has_weights: bool = True) -> None:
    """Trace a graph and write it as an ONNX file.

    Args:
        graph: Graph to trace; its module is put into eval mode.
        path: File to write.
        has_weights: Whether the weights are a part of the file, folded where possible. Without them each weight is an
            input under its own name, and each computation with weights alone is a part of the graph.
    """
    # Eval mode of the exporter folds batch norms into the convolutions before them.
    mode = torch.onnx.TrainingMode.EVAL if has_weights else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated in favour of the dynamo exporter. That one needs one more dependency and
        # names the nodes of the same graph differently from release to release. The tracer's own warnings are about
        # shapes that are fixed by design.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module.eval(), graph.example, str(path),
            input_names=list(graph.inputs), output_names=list(graph.outputs),
            dynamic_axes={key: dict(axes) for key, axes in graph.axes.items()}, opset_version=graph.opset, dynamo=False,
            export_params=has_weights, do_constant_folding=has_weights, training=mode,
        )  # fmt: skip
    onnx.checker.check_model(str(path))
