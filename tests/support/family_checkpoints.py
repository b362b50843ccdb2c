"""Checkpoint files of every architecture with reproducible weights, as their authors would publish them."""

from pathlib import Path

import torch
from support.family_model import family_model
from support.random_model import random_model
from support.reference_weights import state_dict as reference_state
from support.sam2_model import sam2_model
from support.sam2_weights import NAMES as SAM2_NAMES
from support.sam2_weights import published_state_dict
from support.sam_family_weights import state_dict as family_state

from model_store.checkpoint import model_from_state_dict
from model_store.network.model import PromptableModel, build_model

OWN = ("edgesam", "edgesam-lite")
"""Architectures that are not in the fixtures of the family."""


def seeded_network(name: str) -> PromptableModel:
    """Return a model with random weights that all matter, in eval mode."""
    if name == "edgesam":
        return random_model()
    if name == "edgesam-lite":
        shapes = {key: tuple(value.shape) for key, value in build_model(name).state_dict().items()}
        arrays = {key: torch.from_numpy(array) for key, array in reference_state(shapes, 0).items()}
        return model_from_state_dict(arrays, architecture_name=name)
    if name in SAM2_NAMES:
        return sam2_model(name)
    return family_model(name)


def write_checkpoint(name: str, path: Path) -> Path:
    """Write the checkpoint of `seeded_network(name)`, with the unused arrays that its authors' files have."""
    if name in SAM2_NAMES:
        arrays = {key: torch.from_numpy(array) for key, array in published_state_dict(name).items()}
        torch.save({"model": arrays}, path)
        return path
    state = seeded_network(name).state_dict()
    if name not in OWN:
        state = {key: torch.from_numpy(array) for key, array in family_state(name).items()}
    torch.save(state, path)
    return path
