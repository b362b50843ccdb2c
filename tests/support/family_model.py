"""Models of the SAM family with the weights of the reference arrays, and their artifacts."""

from pathlib import Path

import torch
from support.sam_family_weights import state_dict

from model_store.architectures import architecture
from model_store.checkpoint import model_from_state_dict
from model_store.export.artifact import export_model
from model_store.export.model_info import ModelInfo
from model_store.network.model import PromptableModel
from service.manifest import Manifest

# A classification head that published checkpoints of TinyViT have and that no forward pass uses.
_UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")


def family_model(name: str) -> PromptableModel:
    """Return the model of an architecture with the weights of the reference arrays, in eval mode."""
    arrays = {key: value for key, value in state_dict(name).items() if not key.startswith(_UNUSED)}
    return model_from_state_dict(
        {key: torch.from_numpy(value) for key, value in arrays.items()}, architecture_name=name
    )


def export_family_model(name: str, directory: Path) -> Manifest:
    """Write the artifact of `family_model(name)` with float32 weights, computing on one thread."""
    info = ModelInfo(licence=architecture(name).licence, trained=False, training_data="none: generated weights")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return export_model(family_model(name), directory, name=name, info=info, weights="float32")
    finally:
        torch.set_num_threads(threads)
