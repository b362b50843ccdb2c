"""Networks of SAM 2's family with the weights of the reference arrays."""

from collections.abc import Mapping

import numpy as np
import torch
from support.sam2_weights import state_dict

from model_store.checkpoint_files.sam2_names import our_name
from model_store.network.model import PromptableModel, build_model


def sam2_model(name: str, seed: int = 0) -> PromptableModel:
    """Return the model of an architecture, in eval mode.

    Args:
        name: Name of the architecture, for instance ``edgetam``.
        seed: Seed of the weights.
    """
    model = build_model(name)
    model.load_state_dict(_own(state_dict(name, seed)))
    return model.eval()


def with_sam2_decoder(model: PromptableModel, name: str, seed: int = 0) -> PromptableModel:
    """Give a model of the family the prompt encoder and the mask decoder of another one, and return it in eval mode."""
    arrays = {key: array for key, array in _own(state_dict(name, seed)).items() if "image_encoder." not in key}
    found = model.load_state_dict(arrays, strict=False)
    assert all(key.startswith("image_encoder.") for key in found.missing_keys)
    assert not found.unexpected_keys
    return model.eval()


def _own(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {our_name(key): torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}
