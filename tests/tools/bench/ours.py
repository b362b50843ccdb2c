"""Our decoder, called as by the service."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import ImageState
from service.inference.backends.prompt_decoders import Decoded
from service.inference.backends.runtime import Runtime
from service.sam.embedding import HighResMaps, ImageEmbedding
from service.sam.float16 import as_float16
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
        embedding: Embedding of one image.
        images: Number of image states to prepare. All have the same embedding, but separate memory.
    """

    def __init__(self, runtime: Runtime, embedding: ImageEmbedding, *, images: int = 1) -> None:
        self._runtime = runtime
        self._frame = Frame(embedding.original_size, runtime.manifest.resize)
        self.embedding = embedding
        self._states = [runtime.prepare(copied(embedding)) for _ in range(images)]

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
        return self._runtime.decode(state.arrays, *decoder_inputs(prompts, self._frame))


def embedding_of(runtime: Runtime, frame: NDArray[np.float32], size: Size) -> ImageEmbedding:
    """Encode one image, and round its embedding to float16, as the service does.

    Args:
        runtime: Sessions of our artifact.
        frame: Input of the encoder, (1, 3, S, S).
        size: Height and width of the image.
    """
    encoded = runtime.encode(frame)
    maps = encoded.high_res[0]
    return ImageEmbedding(
        as_float16(encoded.tokens[0]),
        size,
        high_res=None if maps is None else HighResMaps(as_float16(maps.s1), as_float16(maps.s0)),
    )


def copied(embedding: ImageEmbedding) -> ImageEmbedding:
    """Return an embedding with the same numbers in memory of its own."""
    maps = embedding.high_res
    return replace(
        embedding,
        tokens=embedding.tokens.copy(),
        high_res=None if maps is None else HighResMaps(maps.s1.copy(), maps.s0.copy()),
    )
