"""Encoder and decoder as the service runs them: ONNX Runtime, or the decoder in C on a CPU."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.sam.embedding import ImageEmbedding
from service.settings import BUNDLED_MODEL


@dataclass(frozen=True, slots=True)
class ServedBackend:
    """The bundled model with an execution provider.

    Args:
        runtime: Sessions of the model.
    """

    runtime: Runtime

    @classmethod
    def of(cls, provider: str, precision: str, *, threads: int, max_batch: int) -> "ServedBackend":
        """Return the backend of a provider.

        Raises:
            ProviderUnavailable: The provider is not installed, or does not work here.
        """
        return cls(
            Runtime(
                BUNDLED_MODEL,
                provider=provider,  # type: ignore[arg-type]
                threads=threads,
                precision=precision,  # type: ignore[arg-type]
                max_encode_batch=max_batch,
            )
        )

    @property
    def provider(self) -> str:
        """Text for the column of the provider."""
        return self.runtime.provider

    def encode(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode frames (B, 3, S, S) to tokens (B, 4096, 256)."""
        return np.asarray(self.runtime.encode(frames).tokens, np.float32)

    def prepare(self, tokens: NDArray[np.float32]) -> ImageState:
        """Return the state of an image from its tokens (4096, 256)."""
        return self.runtime.prepare(ImageEmbedding(tokens, (1024, 1024)))

    def decode(
        self, state: ImageState, points: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode points (P, N, 2) and labels (P, N) to logits (P, 4, 256, 256) and predicted IoU (P, 4)."""
        decoded = self.runtime.decode(state.arrays, points, labels)
        return decoded.mask_logits, decoded.iou_predictions

    def state_bytes(self, state: ImageState) -> int:
        """Return the size of an image state."""
        return state.nbytes

    def peak_bytes(self, frames: NDArray[np.float32]) -> None:
        """ONNX Runtime does not report the memory of its device."""
