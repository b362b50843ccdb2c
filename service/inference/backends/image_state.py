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

    The maps of high resolution are those of the image, whatever S is, and None for a model with SAM's mask decoder. The
    decoder in C reads the embedding's own arrays, (4096, 256) and (4096, 512), in their type.
    """

    keys: Array  # (S, 4096, 256)
    keys0: Array  # (S, 4096, 128), columns (channel, head)
    queries0: Array  # (S, 4096, 128), columns (channel, head)
    high_res_s1: Array | None = None  # (1, 4096, 256)
    high_res_s0: Array | None = None  # (1, 4096, 512)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageState:
    """An embedding and its prepared arrays, as the memory tier keeps them.

    With float16 it takes 10 MiB, and 16 MiB with maps of high resolution that the decoder in C reads in place.
    """

    embedding: ImageEmbedding
    arrays: StateArrays

    @property
    def nbytes(self) -> int:
        """Bytes of the embedding and of the arrays, wherever they are. Arrays of the embedding count once."""
        state = sum(_nbytes(getattr(self.arrays, name)) for name in STATE_NAMES)
        return self.embedding.nbytes + state + self._nbytes_of_copied_maps()

    def _nbytes_of_copied_maps(self) -> int:
        if (maps := self.embedding.high_res) is None:
            return 0
        pairs = ((self.arrays.high_res_s1, maps.s1), (self.arrays.high_res_s0, maps.s0))
        return sum(_nbytes(used) for used, kept in pairs if used is not None and not _is_view(used, kept))


def _is_view(array: Array, kept: Array) -> bool:
    return isinstance(array, np.ndarray) and isinstance(kept, np.ndarray) and np.may_share_memory(array, kept)


def _nbytes(array: Array) -> int:
    return int(array.nbytes if isinstance(array, np.ndarray) else array.tensor_size_in_bytes())
