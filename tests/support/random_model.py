"""The model of the conformance weights: random, yet every number of it matters in the masks."""

import torch
from conformance.weights import state_dict

from model_store.checkpoint import model_from_state_dict
from model_store.edge_sam.model import EdgeSAM, build_edge_sam


def random_model(seed: int = 0) -> EdgeSAM:
    """EdgeSAM in training form and eval mode."""
    shapes = {key: tuple(value.shape) for key, value in build_edge_sam().state_dict().items()}
    arrays = {key: torch.from_numpy(array) for key, array in state_dict(shapes, seed).items()}
    return model_from_state_dict(arrays).eval()
