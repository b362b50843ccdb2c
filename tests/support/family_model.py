"""Models of the SAM family with the weights of the reference arrays, and artifacts made of their checkpoints."""

from pathlib import Path

import torch
from support.sam_family_weights import state_dict

from model_store.architectures import architecture
from model_store.checkpoint import model_from_state_dict
from model_store.export.convert import convert_checkpoint
from model_store.export.model_info import ModelInfo
from model_store.network.model import PromptableModel

# A classification head that published checkpoints of TinyViT have and that no forward pass uses.
_UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")


def family_model(name: str) -> PromptableModel:
    """Return the model of an architecture with the weights of the reference arrays, in eval mode."""
    arrays = {key: value for key, value in state_dict(name).items() if not key.startswith(_UNUSED)}
    return model_from_state_dict(
        {key: torch.from_numpy(value) for key, value in arrays.items()}, architecture_name=name
    )


def convert_family_model(name: str, folder: Path) -> Path:
    """Convert a checkpoint with the keys of the published one to float32 weights, and return the artifact's folder."""
    checkpoint, directory = folder / "checkpoint.pth", folder / "model"
    torch.save({key: torch.from_numpy(value) for key, value in state_dict(name).items()}, checkpoint)
    info = ModelInfo(licence=architecture(name).licence, trained=False, training_data="none: generated weights")
    convert_checkpoint(checkpoint, directory, name=name, info=info, architecture=name, weights="float32")
    return directory
