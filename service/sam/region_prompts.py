"""Prompts on a region: from pixels of the whole image to those of the region, and boxes back."""

from dataclasses import replace

import numpy as np

from service.errors import PromptOutsideImage
from service.sam.decoded_image import ImageInfo
from service.sam.granularity import Box
from service.sam.prompts import Prompt, check_prompt
from service.sam.region import Region


def to_encoded(prompt: Prompt, image: ImageInfo) -> Prompt:
    """Return a prompt in pixels of what is embedded: the region, or the whole image, whose prompts stay as they are.

    A point may lie on the border of the region. A box may extend beyond it, but a part must be inside.

    Args:
        prompt: Prompt in pixels of the whole image.
        image: Image with its region.

    Raises:
        PromptOutsideImage: A point is outside of the image or of its region, or the box has no part inside.
    """
    check_prompt(prompt, image.size)
    region = image.region
    if region is None:
        return prompt
    _check(prompt, image, region)
    origin = np.array((region.x0, region.y0), np.float64)
    box = None if prompt.box is None else (prompt.box.reshape(2, 2) - origin).reshape(4)
    return replace(prompt, points=prompt.points - origin, box=box)


def to_whole(box: Box | None, region: Region | None) -> Box | None:
    """Return a box of the region in pixels of the whole image.

    Args:
        box: Box as (x0, y0, x1, y1), pixels of the region; None for no box.
        region: Region of the image; None for the whole image, whose boxes stay as they are.
    """
    if box is None or region is None:
        return box
    x0, y0, x1, y1 = box
    return x0 + region.x0, y0 + region.y0, x1 + region.x0, y1 + region.y0


def _check(prompt: Prompt, image: ImageInfo, region: Region) -> None:
    left, top, right, bottom = region.corners
    where = f"the region {region} of the image"
    remedy = "use the image_id of the whole image or of another region"
    for x, y in prompt.points.tolist():
        if not (left <= x <= right and top <= y <= bottom):
            raise _outside(f"The point ({x:g}, {y:g}) lies outside {where}; {remedy}.", image, region)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box.tolist()
        if not (x0 < right and x1 > left and y0 < bottom and y1 > top):
            message = f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no part inside {where}; {remedy}."
            raise _outside(message, image, region)


def _outside(message: str, image: ImageInfo, region: Region) -> PromptOutsideImage:
    height, width = image.size
    return PromptOutsideImage(message, extra={"region": list(region.corners), "width": width, "height": height})
