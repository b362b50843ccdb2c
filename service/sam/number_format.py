"""The number formats of cached embeddings, and the rounding to them."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from service.sam.embedding import HighResMaps, Tokens
from service.sam.float16 import as_float16
from service.sam.int8_tokens import Scales, from_int8, int8_scales, to_int8
from service.sam.logits import LARGEST_FLOAT16

EmbeddingDtype = Literal["float16", "float32", "int8"]


@dataclass(frozen=True, slots=True, eq=False)
class RoundedArrays:
    """An encoder's answer for an image in a number format, see `ImageEmbedding`."""

    tokens: Tokens
    high_res: HighResMaps | None
    scales: Scales | None


def rounded(tokens: Tokens, maps: HighResMaps | None, dtype: EmbeddingDtype) -> RoundedArrays:
    """Return copies of an encoder's answer for an image, rounded to a number format.

    The arrays of an image with a number that float16 cannot hold stay float32. Tokens that int8 would change too much
    become float16. Maps of high resolution become float16 beside int8 tokens, too: int8 is too coarse for them.

    Args:
        tokens: Image tokens, (4096, 256).
        maps: Maps of high resolution; None for a model without them.
        dtype: Number format of the answer.
    """
    arrays = [tokens] if maps is None else [tokens, maps.s1, maps.s0]
    # No norm bounds the numbers of SAM 2's encoders. One that became infinite would make all masks NaN.
    if dtype == "float32" or not all(_fits_float16(array) for array in arrays):
        exact, *exact_maps = [array.astype(np.float32) for array in arrays]
        return RoundedArrays(exact, HighResMaps(*exact_maps) if exact_maps else None, None)
    scales = int8_scales(tokens) if dtype == "int8" else None
    kept = as_float16(tokens) if scales is None else from_int8(to_int8(tokens, scales), scales)
    return RoundedArrays(kept, None if maps is None else HighResMaps(as_float16(maps.s1), as_float16(maps.s0)), scales)


def _fits_float16(numbers: Tokens) -> bool:
    return numbers.dtype == np.float16 or cv2.norm(numbers, cv2.NORM_INF) <= LARGEST_FLOAT16
