"""Our decoder, called as by the service."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import ImageState
from service.inference.backends.prompt_decoders import Decoded
from service.inference.backends.runtime import Runtime
from service.sam.embedding import ImageEmbedding
from service.sam.frame import Frame
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.transforms import Size


def open_runtime(directory: Path, *, threads: int, provider: str, precision: str) -> Runtime:
    """Return the sessions of an artifact."""
    return Runtime(directory, provider=provider, threads=threads, precision=precision)


class Clicks:
    """Prompts on prepared images.

    Args:
        runtime: Sessions of our artifact.
        tokens: Tokens (4096, 256) of one image.
        size: Height and width of that image.
        images: Number of image states to prepare. All have the same tokens, but separate memory.
    """

    def __init__(self, runtime: Runtime, tokens: NDArray[np.floating], size: Size, *, images: int = 1) -> None:
        self._runtime = runtime
        self._size = size
        self.embedding = ImageEmbedding(tokens, size)
        self._states = [runtime.prepare(ImageEmbedding(tokens.copy(), size)) for _ in range(images)]

    @property
    def state(self) -> ImageState:
        """Image state of the first image."""
        return self._states[0]

    def prepare(self) -> ImageState:
        """Prepare an image state, as the service does once per image and process."""
        return self._runtime.prepare(self.embedding)

    def decode(self, points: Sequence[tuple[float, float]], image: int = 0) -> Decoded:
        """Decode prompts of one point each in one call, (x, y) in pixels of the image."""
        prompts = [Prompt(points=np.array([point]), labels=np.array([1])) for point in points]
        state = self._states[image % len(self._states)]
        return self._runtime.decode(state.arrays, *decoder_inputs(prompts, Frame(self._size)))
