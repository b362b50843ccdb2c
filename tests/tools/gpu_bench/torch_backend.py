"""Encoder and decoder in torch, in place of ONNX Runtime: the modules from which the served graphs are exported."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.export.graphs.decoder import DecoderGraph
from model_store.export.graphs.encoder import EncoderGraph
from model_store.export.graphs.prepare import PrepareGraph
from model_store.network.model import PromptableModel

Precision = Literal["float32", "float16"]
State = tuple[Tensor, Tensor, Tensor]
"""Image state on the device: keys, keys0 and queries0."""


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """The graphs of a model on a device. Results come back to the host, as in the service.

    In float16, torch's autocast decides which operators compute in it.

    Args:
        encoder: Graph of the encoder.
        prepare_graph: Graph of the image state.
        decoder: Graph of the decoder.
        device: Device of the graphs.
        precision: Precision of products and convolutions.
    """

    encoder: nn.Module
    prepare_graph: nn.Module
    decoder: nn.Module
    device: torch.device
    precision: Precision

    @classmethod
    def of(cls, model: PromptableModel, device: torch.device, precision: Precision) -> "TorchBackend":
        """Return the backend of a model in its form for inference."""
        graphs = [graph(model.deploy()).eval().to(device) for graph in (EncoderGraph, PrepareGraph, DecoderGraph)]
        return cls(*graphs, device, precision)

    @property
    def provider(self) -> str:
        """Text for the column of the provider."""
        return f"{self.device.type}, torch {torch.__version__} in place of ONNX Runtime, direct calls"

    def encode(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode frames (B, 3, S, S) to tokens (B, 4096, 256)."""
        with self._computing():
            return self._to_host(self.encoder(self._to_device(frames)))

    def prepare(self, tokens: NDArray[np.float32]) -> State:
        """Return the state of an image from its tokens (4096, 256)."""
        with self._computing():
            no_mask = torch.zeros((1, 256, 256), device=self.device)
            keys, keys0, queries0 = self.prepare_graph(
                self._to_device(tokens), no_mask, torch.zeros(1, dtype=torch.bool, device=self.device)
            )
            return keys, keys0, queries0

    def decode(
        self, state: State, points: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode points (P, N, 2) and labels (P, N) to logits (P, 4, 256, 256) and predicted IoU (P, 4)."""
        with self._computing():
            logits, iou, _ = self.decoder(self._to_device(points), self._to_device(labels), *state)
            return self._to_host(logits), self._to_host(iou)

    def state_bytes(self, state: State) -> int:
        """Return the size of an image state."""
        return sum(array.nbytes for array in state)

    def peak_bytes(self, frames: NDArray[np.float32]) -> int | None:
        """Return the largest memory of the device while it encodes frames; None on a CPU, which does not count it."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        self.encode(frames)
        return torch.cuda.max_memory_allocated(self.device)

    def _computing(self) -> "_Computing":
        return _Computing(self.device, self.precision)

    def _to_device(self, array: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        return tensor.float().cpu().numpy()


class _Computing:
    """Inference in a precision; a context manager. float32 is computed in full, without TF32."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._inference = torch.inference_mode()
        self._autocast = torch.autocast(device.type, torch.float16, enabled=precision == "float16")

    def __enter__(self) -> None:
        self._inference.__enter__()
        self._autocast.__enter__()

    def __exit__(self, *error: object) -> None:
        self._autocast.__exit__(*error)
        self._inference.__exit__(*error)
