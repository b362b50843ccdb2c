"""Binary masks of an image's size as mask prompts: from PNG or run lengths to the decoder's logits.

The model hardly follows a mask prompt that is alone (docs/explanation/model.md, section 1.7). So a binary mask also
gives a box, and where it is all that a prompt has, the answer is held to it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from service.errors import InvalidRequest, ServiceError
from service.sam.decoded_image import ImageInfo
from service.sam.decoding.joined_file import joined_file
from service.sam.decoding.png_chunks import png_pixels
from service.sam.frame import Frame
from service.sam.prompts import POSITIVE, Prompt
from service.sam.region import Region
from service.sam.rle import decode_counts
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, content_size

# Logits of cells that lie inside and outside of the mask; those at its edge are between them. The decoder's own logits
# have about this size.
_LARGEST_LOGIT: Final = 10.0

# Most pixels of a PNG with colours or transparency, which takes up to six bytes for each. Grey ones take two.
_MAX_COLOUR_PIXELS: Final = 16_000_000

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CELL: Final = FRAME_SIZE // MASK_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class RleMask:
    """A mask as COCO run lengths, not decoded yet.

    Args:
        size: Height and width of the mask, pixels.
        counts: Run lengths column after column, first outside the mask: COCO's compressed text, or the numbers.
    """

    size: Size
    counts: str | Sequence[int]

    def rows(self, region: Region | None = None) -> NDArray[np.uint8]:
        """Return the pixels, (H, W), 255 inside. Its size has to be checked before. Blocking.

        Args:
            region: Part of the mask that is returned; None for the whole mask.

        Raises:
            InvalidRequest: The run lengths cannot be read, or do not fill the mask.
        """
        height, width = self.size
        runs = decode_counts(self.counts) if isinstance(self.counts, str) else np.array(self.counts, np.float64)
        # Each run is checked first: the sum of larger ones could overflow to the right number.
        total = height * width
        if runs.min(initial=0) < 0 or runs.max(initial=0) > total or runs.sum() != total:
            raise InvalidRequest(f"The run lengths do not have the sum of {height} x {width} = {total} pixels.")
        values = np.zeros(len(runs), np.uint8)
        values[1::2] = 255
        left, top, right, bottom = (0, 0, width, height) if region is None else region.corners
        # Only the columns of the region are drawn.
        ends = np.cumsum(runs.astype(np.int64)).clip(left * height, right * height)
        columns = np.repeat(values, np.diff(ends, prepend=left * height)).reshape(right - left, height)
        pixels = cv2.transpose(np.ascontiguousarray(columns[:, top:bottom]))
        return np.asarray(pixels, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class PngMask:
    """A mask as a PNG file, not decoded yet.

    Args:
        size: Height and width of the mask, pixels.
        data: Bytes of the file.
    """

    size: Size
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> "PngMask":
        """Return the mask in a file, whose header is read.

        Raises:
            InvalidRequest: The bytes do not begin like a PNG.
        """
        if len(data) < 24 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
            raise InvalidRequest("The mask is not a PNG file. Send a PNG in base64, or COCO run lengths.")
        width, height = struct.unpack_from(">II", data, 16)
        return cls((height, width), data)

    def rows(self, region: Region | None = None) -> NDArray[np.uint8]:
        """Return the pixels, (H, W), 255 inside. The size that the header names has to be checked before. Blocking.

        Args:
            region: Part of the mask that is returned; None for the whole mask.

        Raises:
            InvalidRequest: The file is broken, or has colours and too many pixels for them.
        """
        try:
            png = png_pixels(self.data, self.size[0] * self.size[1])
            with Image.open(joined_file(png.parts), formats=["PNG"]) as image:
                return _positive(_inside(image if region is None else image.crop(region.corners)))
        except ServiceError as error:
            raise InvalidRequest(error.detail) from error
        except Exception as error:  # on damaged files Pillow raises nearly every type of exception
            raise InvalidRequest("The PNG of the mask is broken or cut off. Save it again.") from error


EncodedMask = RleMask | PngMask


def with_mask(prompt: Prompt, mask: EncodedMask, frame: Frame, image: ImageInfo) -> Prompt:
    """Return the prompt with the mask's logits, and with a box around the mask where it has none. Blocking.

    The box also holds the prompt's positive points, which may be outside the mask. A prompt without points and box is
    held to its mask, see `Prompt.is_held`.

    Args:
        prompt: Prompt without mask logits, in pixels of what is embedded.
        mask: Mask of the whole image. Of a region only that part counts.
        frame: Image, or its region, in the frame of prompts and masks.
        image: Image with its region.

    Raises:
        InvalidRequest: The mask has another size than the image, is empty, or cannot be read.
    """
    if mask.size != image.size:
        raise InvalidRequest(
            f"The mask has {mask.size[1]} x {mask.size[0]} pixels, and the upright image {image.size[1]} x "
            f"{image.size[0]}. Send a mask of the image's size."
        )
    pixels = mask.rows(image.region)
    left, top, width, height = cv2.boundingRect(pixels)
    if width == 0:
        where = "" if image.region is None else f" the region {image.region}"
        raise InvalidRequest(f"The mask is empty: no pixel is inside{where}. Send a mask of an object.")
    is_alone = len(prompt.points) == 0 and prompt.box is None
    box = prompt.box
    if box is None:
        corners = np.array([[left, top], [left + width, top + height]], np.float64)
        held = np.concatenate((corners, prompt.points[prompt.labels == POSITIVE]))
        box = np.concatenate((held.min(axis=0), held.max(axis=0)))
    return replace(prompt, mask_logits=_logits(pixels, frame), box=box, is_held=is_alone)


def held_to_mask(logits: NDArray[np.float32], mask_logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the decoder's logits plus those of the mask prompt: the mask, changed where the decoder is sure.

    Args:
        logits: Logits of the decoder, (..., 256, 256) float32.
        mask_logits: Logits of the mask prompt, (256, 256).
    """
    return logits + mask_logits.astype(np.float32)


def stability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the stability score of masks, (N,) float32; 0 for an empty mask.

    Args:
        logits: Logits of N masks, (N, 256, 256) float32.

    Source: docs/explanation/model.md, section 3.4.
    """
    inner = np.count_nonzero(logits > 1.0, axis=(1, 2))
    outer = np.count_nonzero(logits > -1.0, axis=(1, 2))
    scores: NDArray[np.float32] = (inner / np.maximum(outer, 1)).astype(np.float32)
    return scores


def _inside(image: Image.Image) -> NDArray[np.integer]:
    """Return the pixels that are neither black nor transparent, (H, W), above 0."""
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I"):  # 16 bits
        return np.asarray(image)
    if image.width * image.height > _MAX_COLOUR_PIXELS:
        raise InvalidRequest(
            f"The PNG of the mask has colours and more than {_MAX_COLOUR_PIXELS} pixels. Save it in grey."
        )
    red, green, blue, alpha = image.convert("RGBA").split()
    coloured = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return np.asarray(ImageChops.darker(coloured, alpha))


def _positive(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return 255 for each value above 0, and 0 for the others."""
    pixels: NDArray[np.uint8] = (values > 0).view(np.uint8) * np.uint8(255)
    return pixels


def _logits(pixels: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
    """Return logits for a mask (H, W), 255 inside: (256, 256) float32, by the share of each cell that is inside."""
    height, width = content_size(frame)
    spread = np.zeros((FRAME_SIZE, FRAME_SIZE), np.float32)
    spread[:height, :width] = _resized(pixels, height, width)
    shares = spread.reshape(MASK_SIZE, _CELL, MASK_SIZE, _CELL).mean(axis=(1, 3)) / 255.0
    # A mask that fills no cell, such as a thin line, would else vanish.
    shares /= max(float(shares.max()), 1e-6)
    logits: NDArray[np.float32] = ((2.0 * shares - 1.0) * _LARGEST_LOGIT).astype(np.float32)
    return logits


def _resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return a mask (H, W) in the frame, (height, width): means where an axis shrinks, interpolated where it grows."""
    smaller = min(pixels.shape[1], width), min(pixels.shape[0], height)
    # OpenCV takes means only where no axis grows. An axis that shrinks comes first, which bounds the memory.
    reduced = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
