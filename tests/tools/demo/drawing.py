"""Drawing masks and prompts over images, and laying the results out on a sheet."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_MASK_COLOUR = (235, 30, 130)  # stands out from nearly every photo
_MASK_OPACITY = 0.5
_POINT_COLOURS = {1: "white", 0: "red"}
_PEN_FRACTION = 0.012  # of the image's longer side: radius of a point, and twice the width of a box's line
_GAP = 6
_CAPTION_HEIGHT = 24
_CAPTION_FONT_SIZE = 15


def draw_mask(image: Image.Image, mask: NDArray[np.bool_], prompt: Mapping[str, Any]) -> Image.Image:
    """Return the image with a mask and the prompt that gave it.

    Args:
        image: RGB image.
        mask: Pixels of the object, (height, width).
        prompt: Prompt of `/segment` with `points`, `box` or both, in pixels of the image.
    """
    pixels = np.asarray(image)
    covered = (1 - _MASK_OPACITY) * pixels + _MASK_OPACITY * np.array(_MASK_COLOUR)
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    colours = np.where(mask[..., None], covered, pixels)
    drawn = Image.fromarray(np.where(outline[..., None], 255, colours).astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    radius = _PEN_FRACTION * max(image.size)
    if "box" in prompt:
        pen.rectangle(prompt["box"], outline="yellow", width=round(radius / 2))
    for point in prompt.get("points", []):
        pen.circle((point["x"], point["y"]), radius, _POINT_COLOURS[point.get("label", 1)], "black", round(radius / 4))
    return drawn


def cell(image: Image.Image, height: int, caption: str = "") -> Image.Image:
    """Return the image at a height, in pixels, with a line of text below it where there is one."""
    scaled = image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
    if not caption:
        return scaled
    font = ImageFont.load_default(_CAPTION_FONT_SIZE)
    width = max(scaled.width, round(font.getlength(caption)))
    captioned = Image.new("RGB", (width, height + _CAPTION_HEIGHT), "white")
    captioned.paste(scaled, (0, 0))
    ImageDraw.Draw(captioned).text((0, height + 3), caption, "black", font)
    return captioned


def sheet(rows: Iterable[Sequence[Image.Image]]) -> Image.Image:
    """Return rows of cells on a white ground."""
    lines = [_side_by_side(row) for row in rows]
    width = max(line.width for line in lines)
    drawn = Image.new("RGB", (width, sum(line.height + _GAP for line in lines) - _GAP), "white")
    y = 0
    for line in lines:
        drawn.paste(line, (0, y))
        y += line.height + _GAP
    return drawn


def _side_by_side(row: Sequence[Image.Image]) -> Image.Image:
    line = Image.new("RGB", (sum(each.width + _GAP for each in row) - _GAP, max(each.height for each in row)), "white")
    x = 0
    for each in row:
        line.paste(each, (x, 0))
        x += each.width + _GAP
    return line
