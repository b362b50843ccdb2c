"""The networks in PyTorch: promptable models, written from their specifications, one module a part."""

from model_store.network.model import PromptableModel, build_model
from model_store.network.predictor import TorchPredictor

__all__ = ["PromptableModel", "TorchPredictor", "build_model"]
