"""The image state: an embedding and the arrays that the prompt decoder prepares from it."""

from dataclasses import dataclass

import numpy as np

from service.inference.backends.onnx_graph import Array
from service.manifest import STATE_NAMES
from service.sam.embedding import ImageEmbedding


@dataclass(frozen=True, slots=True)
class StateArrays:
    """Arrays of an image that the decoder reads, for S = 1 (no mask prompt) or S mask prompts.

    The arrays are float32 in the memory of the device that decodes: NumPy arrays on a CPU, ONNX Runtime's own on a GPU.
    Their shapes: docs/explanation/model.md, section 5.1.
    """

    keys: Array  # (S, 4096, 256)
    keys0: Array  # (S, 4096, 128), columns (channel, head)
    queries0: Array  # (S, 4096, 128), columns (channel, head)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageState:
    """An embedding and its prepared arrays, as the memory tier keeps them: 10 MiB an image with float16 tokens."""

    embedding: ImageEmbedding
    arrays: StateArrays

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and of the arrays, wherever they are."""
        return self.embedding.nbytes + sum(_nbytes(getattr(self.arrays, name)) for name in STATE_NAMES)


def _nbytes(array: Array) -> int:
    return int(array.nbytes if isinstance(array, np.ndarray) else array.tensor_size_in_bytes())
