"""The model that is measured, in both layouts: the official pair of graphs, and ours as it is served."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from tools.bench.disc import disc_model

from model_store.export import OPSET, export_model
from model_store.model_info import ModelInfo
from model_store.network.frames import frame
from model_store.network.official import OfficialDecoder, OfficialEncoder

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Models:
    """Where the graphs of one network are."""

    served: Path  # our artifact
    official_encoder: Path
    official_decoder: Path


def make_models(folder: Path, image: NDArray[np.uint8]) -> Models:
    """Solve for the disc model of an image and export it in both layouts.

    Our export compares itself with torch. The official pair is written as its authors write it; that both decoders
    give the same masks is measured with the graphs.
    """
    model = disc_model(image)
    info = ModelInfo(licence="none", trained=False, source_sha256=None, training_data="none: fitted to one image")
    export_model(model, folder / "served", name="disc", info=info, weights="float32")
    models = Models(folder / "served", folder / "official_encoder.onnx", folder / "official_decoder.onnx")
    plain = model.deploy().eval()
    _export(OfficialEncoder(plain), (torch.zeros(1, 3, 1024, 1024),), models.official_encoder,
            ["image"], ["image_embeddings"], {})  # fmt: skip
    _export(OfficialDecoder(plain), (torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2)),
            models.official_decoder, ["image_embeddings", "point_coords", "point_labels"], ["scores", "masks"],
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}})  # fmt: skip
    return models


def session(path: Path, *, threads: int, provider: str, spins: bool = False) -> ort.InferenceSession:
    """A graph on plain ONNX Runtime, on the GPU when our service would be there.

    Args:
        path: of the graph.
        threads: it computes with.
        provider: of our service, as EDGESAM_PROVIDER.
        spins: whether idle threads spin for a while, as they do by default and never in our service.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.log_severity_level = 3
    device = ["CUDAExecutionProvider"] if provider in {"cuda", "tensorrt"} else []
    return ort.InferenceSession(str(path), options, providers=[*device, "CPUExecutionProvider"])


def frame_of(image: NDArray[np.uint8]) -> Floats:
    """What the encoder sees of an image (H, W, 3): (1, 3, 1024, 1024)."""
    return frame(image).numpy()


def _export(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic_axes: dict[str, dict[int, str]],
) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # as in model_store.export: the tracer speaks of shapes fixed by design
        torch.onnx.export(
            module, example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=dynamic_axes,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
