"""The measured model in both layouts: the official pair of graphs, and our artifact."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from tools.bench.disc import disc_model

from model_store.checkpoint import load_checkpoint, seeded_model
from model_store.export.artifact import export_model
from model_store.export.graphs.official import OfficialDecoder, OfficialEncoder
from model_store.export.manifest_file import replace_manifest
from model_store.export.model_info import ModelInfo
from model_store.export.onnx_export import export_graph
from model_store.export.served_graphs import OPSET, encoder_graph
from model_store.network.frames import frame
from model_store.network.model import PromptableModel
from service.mask_rules import EverythingDefaults

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Models:
    """Paths of the graphs of one network."""

    served: Path  # our artifact
    official_encoder: Path
    official_decoder: Path


def make_models(folder: Path, image: NDArray[np.uint8]) -> Models:
    """Fit the disc model to an image and export it in both layouts.

    Our export is compared with torch. The official pair is exported as by its authors. The section `graphs` measures
    the difference of both decoders.
    """
    model = disc_model(image)
    info = ModelInfo(licence="none", trained=False, source_sha256=None, training_data="none: fitted to one image")
    export_model(model, folder / "served", name="disc", info=info, weights="float32")
    models = Models(folder / "served", folder / "official_encoder.onnx", folder / "official_decoder.onnx")
    plain = model.deploy().eval()
    export_official_encoder(plain, models.official_encoder)
    export_official_decoder(plain, models.official_decoder)
    return models


def export_checkpoint(checkpoint: Path, folder: Path, everything: EverythingDefaults) -> None:
    """Export a checkpoint of the model store as an artifact, with defaults of everything mode.

    A comparison with PyTorch needs it: the bundled checkpoint may have been trained further than the bundled artifact.
    """
    info = ModelInfo(licence="none", trained=True, training_data="see the model card of edgesam-lite")
    manifest = export_model(load_checkpoint(checkpoint), folder, name="checkpoint", info=info)
    replace_manifest(folder, manifest.with_everything(everything))


def export_official_decoder(plain: PromptableModel, path: Path, *, use_stability_score: bool = True) -> None:
    """Write a decoder's graph as the authors do.

    Args:
        plain: Deployed model.
        path: File of the graph.
        use_stability_score: Whether its scores are stability scores, as in the published files, or predicted IoUs.
    """
    export_traced(OfficialDecoder(plain, use_stability_score),
            (torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2)),
            path, ["image_embeddings", "point_coords", "point_labels"], ["scores", "masks"],
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}})  # fmt: skip


def export_official_encoder(plain: PromptableModel, path: Path, *, name: str = "image") -> None:
    """Write an encoder's graph as its authors' scripts do: as the network is written, without our forms for export.

    Args:
        plain: Deployed model.
        path: File of the graph.
        name: Name of its input.
    """
    side = plain.architecture.image_size
    with mock.patch.object(torch.onnx, "is_in_onnx_export", return_value=False):
        export_traced(OfficialEncoder(plain), (torch.zeros(1, 3, side, side),), path, [name], ["image_embeddings"], {})


def make_lite_encoders(folder: Path) -> tuple[Path, Path]:
    """Write the encoder of edgesam-lite with random weights twice, and return the files.

    Returns:
        The graph without our forms for export, and the graph that we export.
    """
    plain, ours = folder / "plain_lite_encoder.onnx", folder / "lite_encoder.onnx"
    model = seeded_model(0, "edgesam-lite").deploy().eval()
    export_official_encoder(model, plain)
    export_graph(encoder_graph(model), ours)
    return plain, ours


def session(path: Path, *, threads: int, provider: str, spins: bool = False) -> ort.InferenceSession:
    """Return a session of plain ONNX Runtime, on the GPU if our service uses it.

    Args:
        path: Path of the graph.
        threads: Number of threads.
        provider: EDGESAM_PROVIDER of our service.
        spins: Whether idle threads spin for a while. They do by default, but not in our service.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.log_severity_level = 3
    device = ["CUDAExecutionProvider"] if provider in {"cuda", "tensorrt"} else []
    return ort.InferenceSession(str(path), options, providers=[*device, "CPUExecutionProvider"])


def frame_of(image: NDArray[np.uint8]) -> Floats:
    """Return the encoder's input (1, 3, 1024, 1024) of an image (H, W, 3)."""
    return frame(image).numpy()


def export_traced(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic_axes: dict[str, dict[int, str]],
) -> None:
    """Write a graph with the exporter that the authors of SAM and EdgeSAM use.

    Args:
        module: Module to write.
        example: Inputs for tracing.
        path: File of the graph.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        dynamic_axes: Names of variable axes, by input and axis.
    """
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # as in model_store.export.onnx_export: the tracer warns about fixed shapes
        torch.onnx.export(
            module, example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=dynamic_axes,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
