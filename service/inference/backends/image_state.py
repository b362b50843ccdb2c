"""The image state: an embedding and the arrays that the prompt decoder prepares from it."""

from dataclasses import dataclass

import numpy as np

from service.inference.backends.onnx_graph import Array
from service.manifest import HIGH_RES_NAMES, STATE_NAMES
from service.sam.embedding import ImageEmbedding


@dataclass(frozen=True, slots=True)
class StateArrays:
    """Arrays of an image that the decoder reads, for S = 1 (no mask prompt) or S mask prompts.

    The arrays are in the memory of the device that decodes: NumPy arrays on a CPU, ONNX Runtime's own on a GPU. Those
    of the graph are float32. Their shapes: docs/explanation/model.md, section 5.1. The decoder in C reads the tokens of
    the embedding as keys, and keys0 and queries0 in 24 bits a number: docs/explanation/native-decoder.md.

    The maps of high resolution are those of the image, whatever S is, and None for a model with SAM's mask decoder. The
    decoder in C reads the embedding's own arrays, (4096, 256) and (4096, 512), in their type.
    """

    keys: Array  # (S, 4096, 256)
    keys0: Array  # (S, 4096, 128), columns (channel, head); (S, 4096, 384) bytes for the decoder in C
    queries0: Array  # as keys0
    high_res_s1: Array | None = None  # (1, 4096, 256)
    high_res_s0: Array | None = None  # (1, 4096, 512)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageState:
    """An embedding and its prepared arrays, as the memory tier keeps them.

    With float16 and the decoder in C it takes 5 MiB, and 11 MiB with maps of high resolution.
    """

    embedding: ImageEmbedding
    arrays: StateArrays

    @property
    def nbytes(self) -> int:
        """Bytes of the embedding and of the arrays, wherever they are. Arrays of the embedding count once."""
        maps = self.embedding.high_res
        kept = [self.embedding.tokens, *((maps.s1, maps.s0) if maps is not None else ())]
        used = [getattr(self.arrays, name) for name in (*STATE_NAMES, *HIGH_RES_NAMES)]
        own = [array for array in used if array is not None and not any(_is_view(array, other) for other in kept)]
        return self.embedding.nbytes + sum(map(_nbytes, own))


def _is_view(array: Array, kept: Array) -> bool:
    return isinstance(array, np.ndarray) and isinstance(kept, np.ndarray) and np.may_share_memory(array, kept)


def _nbytes(array: Array) -> int:
    return int(array.nbytes if isinstance(array, np.ndarray) else array.tensor_size_in_bytes())
