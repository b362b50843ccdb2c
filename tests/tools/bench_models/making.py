"""Makes the measured artifacts from random weights, and the graphs that the authors of some encoders export."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from tools.bench.models import export_official_encoder

from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.export.convert import convert_checkpoint
from model_store.export.model_info import ModelInfo
from model_store.network.model import build_model

OFFICIAL_ENCODERS = (
    "edgesam",
    "efficientvit-sam-l0",
    "efficientvit-sam-l1",
    "efficientvit-sam-l2",
    "efficientvit-sam-xl0",
    "efficientvit-sam-xl1",
)
"""Architectures whose authors export their encoder as ONNX."""


@dataclass(frozen=True, slots=True)
class Made:
    """A measured artifact.

    Attributes:
        directory: Folder of the artifact.
        official_encoder: Encoder graph as its authors export it; None where they export none.
        seconds: Time of the conversion, without reading the authors' graph.
    """

    directory: Path
    official_encoder: Path | None
    seconds: float


def make_artifact(name: str, folder: Path) -> Made:
    """Make an artifact from random weights in an empty folder.

    Args:
        name: Name of the architecture.
        folder: Folder of all files.
    """
    model = seeded_model(0, name).eval()
    official = folder / "official_encoder.onnx" if name in OFFICIAL_ENCODERS else None
    if official is not None:
        export_official_encoder(model.deploy(), official)
    checkpoint = folder / "checkpoint.safetensors"
    save_checkpoint(model, checkpoint)
    del model
    started = perf_counter()
    info = ModelInfo(licence="none", trained=False, training_data="none: random weights")
    convert_checkpoint(checkpoint, folder / "model", name=name, info=info)
    seconds = perf_counter() - started
    checkpoint.unlink()
    return Made(folder / "model", official, seconds)


def parameters(name: str) -> tuple[int, int]:
    """Return the numbers of parameters of the encoder, and of prompt encoder and mask decoder."""
    with torch.device("meta"):
        model = build_model(name)
    encoder = sum(parameter.numel() for parameter in model.image_encoder.parameters())
    return encoder, sum(parameter.numel() for parameter in model.parameters()) - encoder
