"""EdgeSAM as a PyTorch network, written from its specification, one module a part."""

from model_store.network.model import EdgeSAM, build_edge_sam
from model_store.network.predictor import TorchPredictor

__all__ = ["EdgeSAM", "TorchPredictor", "build_edge_sam"]
