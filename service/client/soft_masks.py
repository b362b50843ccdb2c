"""Masks with a soft edge: the request, and the answer as an array."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import UnexpectedAnswer
from .messages import Answer, Request, segment_request
from .values import Box, Cleanup, Prompt

_PNG = "image/png"


@dataclass(frozen=True, eq=False)
class SoftMask:
    """A mask with a soft edge. Its alpha is decoded when it is first read.

    Args:
        score: Score of the mask, see `Mask`.
        area: Number of pixels whose alpha is at least 128. They are those of the mask.
        box: Box of the mask x0, y0, x1, y1, exclusive at the end. Zeros if the mask is empty.
        mask_id: Id for refining this mask. The service keeps the mask for some minutes.
        size: (height, width) of the image, in pixels.
        alpha_box: Box of the values above 0, exclusive at the end. Zeros if the mask is empty.
        png: The values in `alpha_box` as a grey PNG file.
    """

    score: float
    area: int
    box: Box
    mask_id: str
    size: tuple[int, int]
    alpha_box: Box
    png: bytes = field(repr=False)

    @cached_property
    def alpha(self) -> NDArray[np.uint8]:
        """(H, W) uint8, 255 inside, 0 outside, and values between them at the edge. The array is cached and read-only.

        Raises:
            UnexpectedAnswer: if the PNG cannot be read, or has another size than `alpha_box`.
        """
        alpha = np.zeros(self.size, np.uint8)
        x0, y0, x1, y1 = self.alpha_box
        if x1 > x0:
            try:
                alpha[y0:y1, x0:x1] = _grey_values(self.png, (y1 - y0, x1 - x0))
            except (OSError, ValueError) as error:
                raise UnexpectedAnswer(f"The soft mask cannot be read: {error}") from error
        alpha.flags.writeable = False
        return alpha


def soft_mask_request(image_id: str, prompt: Prompt, cleanup: Cleanup, model: str | None) -> Request:
    """Request for the alpha of the best mask as a PNG file."""
    hard = segment_request(image_id, [prompt], "auto", cleanup, model)
    document = {**json.loads(hard.body), "format": "alpha", "crop": True}
    return Request("POST", hard.path, {**hard.headers, "Accept": _PNG}, json.dumps(document).encode())


def read_soft_mask(answer: Answer) -> SoftMask:
    """Read the answer to `soft_mask_request`.

    Raises:
        UnexpectedAnswer: if a header is missing or malformed.
    """
    try:
        width, height = _numbers(answer.headers["x-image-size"], 2)
        mask = SoftMask(
            score=float(answer.headers["x-mask-score"]),
            area=int(answer.headers["x-mask-area"]),
            box=_box(answer.headers["x-mask-box"]),
            mask_id=answer.headers["x-mask-id"],
            size=(height, width),
            alpha_box=_box(answer.headers["x-alpha-box"]),
            png=answer.content,
        )
        _check_box(mask.alpha_box, mask.size)
    except (KeyError, ValueError) as error:
        raise UnexpectedAnswer(
            f"HTTP {answer.status}, but not a soft mask ({error}). The service may be too old for soft edges."
        ) from error
    return mask


def _grey_values(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a grey PNG file of 8 bits and of this height and width."""
    from PIL import Image  # noqa: PLC0415 - Pillow is imported only when it is needed

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if image.mode != "L" or image.size != size[::-1]:
            raise ValueError(f"it is {image.mode} of {image.size}")
        return np.asarray(image)


def _check_box(box: Box, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]):
        raise ValueError(f"the box {box} is not in the image")


def _box(text: str) -> Box:
    x0, y0, x1, y1 = _numbers(text, 4)
    return x0, y0, x1, y1


def _numbers(text: str, count: int) -> Sequence[int]:
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) != count:
        raise ValueError(f"{text!r} are not {count} numbers")
    return numbers
