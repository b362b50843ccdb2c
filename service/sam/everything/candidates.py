"""Candidates: the masks of a batch of points that pass the filters, at the resolution of the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.sam.everything.coverage import GridCells
from service.sam.everything.crops import is_cut_off
from service.sam.everything.duplicates import inclusive_boxes
from service.sam.everything.filters import is_stable, stability_scores
from service.sam.everything.found_mask import EverythingMask
from service.sam.everything.options import EverythingOptions
from service.sam.everything.selection import SelectedMasks
from service.sam.frame import Frame
from service.sam.mask_runs import as_runs
from service.sam.masks import Mask, MaskFunction
from service.sam.transforms import Size, used_cells


@dataclass(frozen=True, slots=True)
class SearchedPart:
    """The part of an image that one embedding shows: the whole image, or a region of it.

    Args:
        frame: Pixels of the part in the frame of the model.
        left: First column of the part, pixels of the image.
        top: First row of the part, pixels of the image.
        image_size: Height and width of the whole image, pixels.
    """

    frame: Frame
    left: int
    top: int
    image_size: Size

    @classmethod
    def whole(cls, frame: Frame) -> "SearchedPart":
        """Return the part that is the whole image."""
        return cls(frame, 0, 0, frame.size)

    @property
    def crop_box(self) -> tuple[int, int, int, int]:
        """The part as records state it: x, y, width, height, pixels of the image."""
        height, width = self.frame.size
        return self.left, self.top, width, height

    def pixels(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points as pixels of the part, (n, 2), which are not rounded.

        Args:
            shares: Points as shares of width and height, (n, 2).
        """
        height, width = self.frame.size
        return shares * np.array((width, height), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask that passed the filters.

    Args:
        found: Mask with what answers state of it.
        quality: Number by which candidates are ordered.
        box: Box as x0, y0, x1, y1, pixels of the image, inclusive at the end.
        covered: Points of the grid that the mask covers, (n,) bool; None where nobody asked.
    """

    found: EverythingMask
    quality: float
    box: tuple[int, int, int, int]
    covered: NDArray[np.bool_] | None = None


def candidates_of(
    masks: SelectedMasks,
    indices: Sequence[int],
    points: NDArray[np.float64],
    part: SearchedPart,
    options: EverythingOptions,
    *,
    outputs: int,
    enlarge: MaskFunction,
    place: Callable[[Mask], Mask],
    cells: GridCells | None = None,
) -> list[Candidate]:
    """Return the candidates among the decoded masks of some points. Masks without a pixel are none.

    Args:
        masks: Masks of these points that passed the filter of quality.
        indices: Index of each point in the whole grid.
        points: These points, (P, 2), pixels of the part.
        part: Part of the image that was searched.
        options: Options of the request.
        outputs: Number of outputs of the decoder that become masks.
        enlarge: Function that enlarges logits to a mask of the part.
        place: Function that makes a mask of the image from one of the part.
        cells: Logits at the points of the whole grid, for candidates that state which points they cover.
    """
    rows, columns = used_cells(part.frame)
    stability = stability_scores([each[:rows, :columns] for each in masks.mask_logits], options.stability_score_offset)
    candidates = []
    for k in np.flatnonzero(is_stable(stability, options.stability_score_thresh)).tolist():
        mask = as_runs(place(enlarge(masks.mask_logits[k], part.frame)))
        if mask.area == 0:
            continue
        x, y = points[masks.prompts[k]].tolist()
        found = EverythingMask(
            id=outputs * indices[masks.prompts[k]] + int(masks.positions[k]),
            mask=mask,
            predicted_iou=float(masks.predicted_iou[k]),
            stability_score=float(stability[k]),
            point=(x + part.left, y + part.top),
            crop_box=part.crop_box,
        )
        x0, y0, x1, y1 = inclusive_boxes([mask.box])[0].tolist()
        covered = None if cells is None else cells.covered(masks.mask_logits[k])
        candidates.append(Candidate(found, float(masks.quality[k]), (x0, y0, x1, y1), covered))
    return _whole(candidates, part)


def _whole(candidates: Sequence[Candidate], part: SearchedPart) -> list[Candidate]:
    """Return the candidates that no edge of the part cuts off."""
    if not candidates:
        return []
    left, top, width, height = part.crop_box
    crop_box = left, top, left + width, top + height
    cut = is_cut_off(np.array([one.box for one in candidates]), crop_box, part.image_size)
    return [one for one, is_cut in zip(candidates, cut.tolist(), strict=True) if not is_cut]
