"""Objects of the evaluation: ground truth, box and centre of each, and the correction points for a predicted mask.

Protocol: docs/explanation/model.md, section 8.1.

Letters: (H, W) of the photo, S = 1024 side of the frame, s = 256 side of the logits.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import MaskRecord
from service.sam.frame import Frame, Resize
from service.sam.prompts import IGNORED, NEGATIVE, POSITIVE
from service.sam.transforms import (
    FRAME_SIZE,
    MASK_SIZE,
    Size,
    content_size,
    input_size,
    points_from_frame,
    points_to_frame,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

CELL = FRAME_SIZE // MASK_SIZE
FEWEST_WRONG_CELLS = 10
_SHARPNESS = 0.35  # of the approximate distance transform, as EdgeSAM's library has it


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object to find.

    Attributes:
        truth: Ground truth, (H, W), the annotation resized to the letterboxed frame and back, which widens it a little.
            It is the same for models that stretch, so that all methods are compared with the same pixels.
        area: Area of the annotation itself, in pixels.
        box: Box of the object, (4,) float32 as x0, y0, x1, y1 in the frame.
        centre: Centre of the object, (2,) float32 as (x, y) in the frame; the same place of the photo for all models.
        cells: Annotation, (s, s), on the grid of the logits, for corrections.
    """

    truth: Bools
    area: int
    box: Floats
    centre: Floats
    cells: Bools


def make_instance(record: MaskRecord, frame: Frame) -> Instance:
    """Return the object of an annotation.

    Args:
        record: Annotated mask.
        frame: Photo in the frame of a model.
    """
    mask = record.decode().astype(np.bool_)
    letterbox = Frame(frame.size)
    letterboxed = to_frame(mask)
    centre = np.array(centre_pixel(letterboxed), np.float32)
    if frame != letterbox:
        centre = points_to_frame(points_from_frame(centre, letterbox), frame)
    return Instance(
        truth=round_trip(letterboxed, frame.size),
        area=record.area,
        box=points_to_frame(np.asarray(record.box).reshape(2, 2), frame).reshape(4),
        centre=centre,
        cells=to_cells(letterboxed if frame == letterbox else to_frame(mask, frame.resize)),
    )


def to_frame(mask: Bools, resize: Resize = "letterbox") -> Bools:
    """Resize a mask (H, W) into the frame, (S, S): nearest neighbour, then padding where it is letterboxed."""
    height, width = content_size(Frame((mask.shape[0], mask.shape[1]), resize))
    frame = np.zeros((FRAME_SIZE, FRAME_SIZE), np.bool_)
    frame[:height, :width] = mask[_nearest(mask.shape[0], height)[:, None], _nearest(mask.shape[1], width)]
    return frame


def round_trip(frame: Bools, size: Size) -> Bools:
    """Resize a letterboxed mask (S, S) back to the photo, (H, W): bilinear without antialiasing, above 0."""
    height, width = input_size(size)
    content = np.ascontiguousarray(frame[:height, :width]).astype(np.float32)
    back = cv2.resize(content, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    result: Bools = back > 0
    return result


def to_cells(frame: Bools) -> Bools:
    """Reduce a mask (S, S) to cells, (s, s), as bilinear resizing without antialiasing does, above 0.

    Resizing by four uses the middle two by two pixels of a cell.
    """
    first, second = slice(1, None, CELL), slice(2, None, CELL)
    cells: Bools = frame[first, first] | frame[first, second] | frame[second, first] | frame[second, second]
    return cells


def centre_pixel(mask: Bools) -> tuple[int, int]:
    """Return the pixel (x, y) farthest from the background, by the approximate distance transform of the evaluation.

    Soft distances within three by three pixels are added up, layer by layer. Pixels outside the frame are background.
    Source: Pham et al., "A differentiable convolutional distance transform layer", as in kornia;
    docs/explanation/model.md, section 8.1.
    """
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width == 0:
        return 0, 0
    # Around the box there is only background, so the distances equal those in the whole frame.
    background = np.pad(~mask[y0 : y0 + height, x0 : x0 + width], 1, constant_values=True).astype(np.float32)
    near, diagonal = math.exp(-1 / _SHARPNESS), math.exp(-math.sqrt(2) / _SHARPNESS)
    kernel = np.array([[diagonal, near, diagonal], [near, 1.0, near], [diagonal, near, diagonal]], np.float32)
    distance = np.zeros_like(background)
    for layer in range(max(background.shape)):
        share = cv2.filter2D(background, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        with np.errstate(divide="ignore"):
            soft = -_SHARPNESS * np.log(share)
        reached = np.isfinite(soft) & (soft > 0)
        if not reached.any():
            break
        distance[reached] += layer + soft[reached]
        background[reached] = 1.0
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x) - 1 + x0, int(y) - 1 + y0


def valid_cells(frame: Frame) -> Bools:
    """Return the cells of the logits that lie in a photo, as (s, s)."""
    height, width = content_size(frame)
    inside = np.zeros((FRAME_SIZE, FRAME_SIZE), np.bool_)
    inside[:height, :width] = True
    return to_cells(inside)


def correction(mask_logits: Floats, cells: Bools, valid: Bools, random: np.random.Generator) -> tuple[Floats, int]:
    """Return the next correction point, drawn uniformly from all wrong cells.

    Args:
        mask_logits: Logits of the predicted mask, (s, s).
        cells: Ground truth, (s, s).
        valid: Cells inside the photo, (s, s), from `valid_cells`.
        random: Generator that draws the cell.

    Returns:
        (2,) float32 in the frame, and POSITIVE, NEGATIVE, or IGNORED where fewer than 10 cells are wrong.
    """
    wrong = ((mask_logits > 0) != cells) & valid
    candidates = np.flatnonzero(wrong)
    if len(candidates) < FEWEST_WRONG_CELLS:
        return np.zeros(2, np.float32), IGNORED
    y, x = divmod(int(random.choice(candidates)), MASK_SIZE)
    return np.array([x * CELL, y * CELL], np.float32), POSITIVE if cells[y, x] else NEGATIVE


def obeys(mask: Bools, point: Floats, label: int, resize: Resize = "letterbox") -> bool | None:
    """Return whether a mask obeys the newest correction point.

    A correction points at the first pixel of a wrong cell, which may lie just outside the object it is meant for.
    Therefore even a perfect mask obeys only some 90 of 100 corrections.

    Args:
        mask: Mask that was predicted with the point, (H, W).
        point: Position (x, y) of the point in the frame, (2,).
        label: Label of the point: POSITIVE, NEGATIVE or IGNORED.
        resize: How the photo gets into that frame.

    Returns:
        True if the pixel of a positive point is inside the mask, or that of a negative point outside. None for an
        ignored point.
    """
    if label == IGNORED:
        return None
    size = (mask.shape[0], mask.shape[1])
    x, y = (int(value) for value in points_from_frame(point, Frame(size, resize)))
    # The last cell of the logits may begin behind the last pixel of the photo.
    is_inside = bool(mask[min(y, size[0] - 1), min(x, size[1] - 1)])
    return is_inside == (label == POSITIVE)


def image_mask(mask_logits: Floats, frame: Frame) -> Bools:
    """Return logits (s, s) as a mask (H, W) of the photo, above 0.

    Logits of a letterboxed photo are resized bilinearly to the frame, cropped, and resized bilinearly to the photo
    (docs/explanation/model.md, section 1.4), those of a stretched one bilinearly to the photo.

    Written apart from the service's own code, so that the service is not measured by itself.
    """
    content = mask_logits
    if frame.resize == "letterbox":
        height, width = input_size(frame.size)
        enlarged = cv2.resize(mask_logits, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_LINEAR)
        content = np.ascontiguousarray(enlarged[:height, :width])
    photo = cv2.resize(content, (frame.size[1], frame.size[0]), interpolation=cv2.INTER_LINEAR)
    mask: Bools = photo > 0
    return mask


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """Return the source index of each target index: rounded down, in float32 as in torch, which decides the edges."""
    positions = np.arange(target, dtype=np.float32) * np.float32(source / target)
    return np.minimum(positions.astype(np.int64), source - 1)
