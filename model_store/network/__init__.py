"""The networks in PyTorch: image encoders, prompt encoder, mask decoder, granularity module, and a predictor."""

from model_store.network.model import PromptableModel, build_model
from model_store.network.predictor import TorchPredictor

__all__ = ["PromptableModel", "TorchPredictor", "build_model"]
