"""Makes the measured artifacts from random weights, and the graphs that the authors of some encoders export."""

from dataclasses import dataclass
from pathlib import Path

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
    """

    directory: Path
    official_encoder: Path | None


def made_artifact(name: str, folder: Path) -> Made:
    """Return the artifact of random weights; one that is in the folder already is taken.

    Args:
        name: Name of the architecture.
        folder: Folder of all artifacts.
    """
    directory = folder / name
    official = folder / f"{name}-official.onnx" if name in OFFICIAL_ENCODERS else None
    if not directory.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = seeded_model(0, name).eval()
        if official is not None:
            export_official_encoder(model.deploy(), official)
        checkpoint = folder / f"{name}.safetensors"
        save_checkpoint(model, checkpoint)
        del model
        info = ModelInfo(licence="none", trained=False, training_data="none: random weights")
        # The architecture is named because TinySAM's keys are those of MobileSAM.
        convert_checkpoint(checkpoint, directory, name=name, info=info, architecture=name)
        checkpoint.unlink()
    return Made(directory, official)


def parameters(name: str) -> tuple[int, int]:
    """Return the numbers of parameters of the encoder, and of prompt encoder and mask decoder."""
    with torch.device("meta"):
        model = build_model(name)
    encoder = sum(parameter.numel() for parameter in model.image_encoder.parameters())
    return encoder, sum(parameter.numel() for parameter in model.parameters()) - encoder
