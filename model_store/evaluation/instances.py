"""What is asked and what is right in evaluation: the ground truth on its trip, boxes, middles, corrections.

Protocol: docs/explanation/model.md, section 8.1.

Letters: (H, W) of the photo, S = 1024 side of the frame, s = 256 side of the logits.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import MaskRecord
from service.sam.prompts import IGNORED, NEGATIVE, POSITIVE
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, input_size, points_from_frame, points_to_frame

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

CELL = FRAME_SIZE // MASK_SIZE
FEWEST_WRONG_CELLS = 10
_SHARPNESS = 0.35  # of the approximate distance transform, as EdgeSAM's library has it


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object to find.

    Attributes:
        truth: (H, W); the annotation after its way to the frame and back, which widens it a little.
        area: pixels of the annotation itself.
        box: (4,) float32 in the frame.
        middle: (2,) float32 in the frame.
        cells: (s, s), the annotation on the grid of the logits, for corrections.
    """

    truth: Bools
    area: int
    box: Floats
    middle: Floats
    cells: Bools


def instance(record: MaskRecord, size: Size) -> Instance:
    """An annotation of a photo of this (H, W), ready to be asked for."""
    mask = record.decode().astype(np.bool_)
    frame = to_frame(mask)
    return Instance(
        truth=round_trip(frame, size),
        area=record.area,
        box=points_to_frame(np.asarray(record.box).reshape(2, 2), size).reshape(4),
        middle=np.array(middle_pixel(frame), np.float32),
        cells=to_cells(frame),
    )


def to_frame(mask: Bools) -> Bools:
    """(H, W) → (S, S): nearest neighbour, then padding."""
    height, width = input_size((mask.shape[0], mask.shape[1]))
    frame = np.zeros((FRAME_SIZE, FRAME_SIZE), np.bool_)
    frame[:height, :width] = mask[_nearest(mask.shape[0], height)[:, None], _nearest(mask.shape[1], width)]
    return frame


def round_trip(frame: Bools, size: Size) -> Bools:
    """(S, S) → (H, W): bilinear without antialiasing, and whatever is above 0, as a prediction's logits go."""
    height, width = input_size(size)
    content = np.ascontiguousarray(frame[:height, :width]).astype(np.float32)
    back = cv2.resize(content, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    result: Bools = back > 0
    return result


def to_cells(frame: Bools) -> Bools:
    """(S, S) → (s, s): bilinear by four without antialiasing sees the middle two by two of a cell; above 0."""
    first, second = slice(1, None, CELL), slice(2, None, CELL)
    cells: Bools = frame[first, first] | frame[first, second] | frame[second, first] | frame[second, second]
    return cells


def middle_pixel(mask: Bools) -> tuple[int, int]:
    """The pixel (x, y) farthest from the background, by the approximate distance transform of EdgeSAM's evaluation.

    Layer by layer, soft distances within three by three pixels are added up; what is outside the frame is background.
    Source: Pham et al., "A differentiable convolutional distance transform layer", as in kornia;
    docs/explanation/model.md, section 8.1.
    """
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width == 0:
        return 0, 0
    # Nothing but background is left out with what lies around the box, so the distances are those of the whole.
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


def valid_cells(size: Size) -> Bools:
    """(s, s): cells of the logits that lie in a photo of this (H, W)."""
    height, width = input_size(size)
    frame = np.zeros((FRAME_SIZE, FRAME_SIZE), np.bool_)
    frame[:height, :width] = True
    return to_cells(frame)


def correction(answer: Floats, cells: Bools, valid: Bools, random: np.random.Generator) -> tuple[Floats, int]:
    """The next click: uniformly from all cells that are wrong.

    Args:
        answer: (s, s) logits.
        cells: (s, s), what is right.
        valid: (s, s), from `valid_cells`.
        random: draws the cell.

    Returns:
        (2,) float32 in the frame, and POSITIVE, NEGATIVE, or IGNORED where fewer than 10 cells are wrong.
    """
    wrong = ((answer > 0) != cells) & valid
    places = np.flatnonzero(wrong)
    if len(places) < FEWEST_WRONG_CELLS:
        return np.zeros(2, np.float32), IGNORED
    y, x = divmod(int(random.choice(places)), MASK_SIZE)
    return np.array([x * CELL, y * CELL], np.float32), POSITIVE if cells[y, x] else NEGATIVE


def obeys(answer: Bools, point: Floats, label: int) -> bool | None:
    """Whether a mask does what the click before it asked for.

    A correction points at the first pixel of a wrong cell, which may lie just outside the object it is meant for.
    Therefore even a perfect mask obeys only some 90 of 100 corrections.

    Args:
        answer: (H, W) mask that was answered to prompts with the click.
        point: (2,) click (x, y) in the frame.
        label: POSITIVE, NEGATIVE or IGNORED.

    Returns:
        True where the pixel under a positive click is inside the mask, or that under a negative one outside. None for
        an ignored click, which asks for nothing.
    """
    if label == IGNORED:
        return None
    size = (answer.shape[0], answer.shape[1])
    x, y = (int(value) for value in points_from_frame(point, size))
    # The last cell of the logits may begin behind the last pixel of the photo.
    is_inside = bool(answer[min(y, size[0] - 1), min(x, size[1] - 1)])
    return is_inside == (label == POSITIVE)


def to_photo(mask_logits: Floats, size: Size) -> Bools:
    """Logits (s, s) as the mask (H, W): bilinear to the frame, cropped, bilinear to the photo, above 0.

    Source: docs/explanation/model.md, section 1.4.

    Plain on purpose: a service is measured with other code than its own.
    """
    height, width = input_size(size)
    frame = cv2.resize(mask_logits, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_LINEAR)
    content = np.ascontiguousarray(frame[:height, :width])
    photo = cv2.resize(content, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    mask: Bools = photo > 0
    return mask


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """Source index of each target index: rounded down, in float32 as torch does, which decides where edges meet."""
    places = np.arange(target, dtype=np.float32) * np.float32(source / target)
    return np.minimum(places.astype(np.int64), source - 1)
