"""The everything result while it grows: candidates without duplicates, without small regions, best first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.everything.candidates import Candidate
from service.sam.everything.coverage import MAX_COVER_SHARE
from service.sam.everything.duplicates import inclusive_boxes, without_duplicates
from service.sam.everything.found_mask import EverythingMask
from service.sam.everything.options import EverythingOptions
from service.sam.everything.small_regions import without_small_regions
from service.sam.mask_runs import as_runs
from service.sam.masks import Mask

CLEANED_NMS_THRESH: Final = 0.7
"""Least IoU of boxes above which the worse of two masks is dropped after small regions were removed: SAM's
`crop_nms_thresh`."""

MAX_CANDIDATE_BYTES: Final = 128 << 20
"""Memory that the candidates of one request may take. The worst go when there are more.

Their masks without small regions take at most as much again, since they have fewer runs."""


@dataclass(frozen=True, slots=True)
class Change:
    """What new candidates did to a result.

    Args:
        found: Masks that the result did not have before, best first.
        dropped: Ids of masks that the result had before and has no more, rising.
    """

    found: Sequence[EverythingMask]
    dropped: Sequence[int]


class EverythingResult:
    """The masks of one request so far. They depend on the candidates and not on their order.

    Args:
        options: Options of the request.
        max_bytes: Memory that candidates may take.
    """

    def __init__(self, options: EverythingOptions, *, max_bytes: int = MAX_CANDIDATE_BYTES) -> None:
        self._options = options
        self._max_bytes = max_bytes
        self._candidates: dict[int, Candidate] = {}
        self._nbytes = 0
        self._cleaned: dict[int, Mask] = {}
        self._masks: dict[int, EverythingMask] = {}

    @property
    def masks(self) -> Sequence[EverythingMask]:
        """Masks of the result at the last update, best first."""
        return tuple(self._masks.values())

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Add candidates to those of the next update.

        Args:
            candidates: Candidates with ids that were not added before.
        """
        for candidate in candidates:
            self._candidates[candidate.found.id] = candidate
            self._nbytes += _nbytes(candidate)
        if self._nbytes > self._max_bytes:
            self._evict()

    def update(self, check: Callable[[], None] = lambda: None) -> Change:
        """Choose the masks of the result among all candidates so far. Blocking.

        1. Drop duplicates. 2. Keep the best ones, at most `max_masks`. 3. Remove small regions, and drop duplicates
        again: masks that did not change come first.

        Args:
            check: Function that stops the work with its exception. It is called before small regions are removed from
                a mask, which takes up to a second at 52 megapixels.
        """
        # By id: so of equal qualities the same one stays, in whatever order candidates came.
        waiting = [self._candidates[i] for i in sorted(self._candidates)]
        quality = np.array([one.quality for one in waiting], np.float32)
        boxes = np.array([one.box for one in waiting], np.int64).reshape(-1, 4)
        kept = without_duplicates(boxes, quality, self._options.box_nms_thresh, most=self._options.max_masks)
        chosen = [waiting[i].found for i in kept]
        if self._options.min_mask_region_area > 0:
            chosen = self._without_small_regions(chosen, check)
        before, self._masks = self._masks, {mask.id: mask for mask in chosen}
        return Change(
            found=[mask for mask in chosen if mask.id not in before],
            dropped=sorted(before.keys() - self._masks.keys()),
        )

    def covered(self, points: int) -> NDArray[np.bool_]:
        """Return which points of the grid the masks of the last update cover, (points,) bool.

        Masks that take more than `MAX_COVER_SHARE` of the part that was searched cover nothing.

        Args:
            points: Number of points of the grid.
        """
        covered = np.zeros(points, np.bool_)
        for number, mask in self._masks.items():
            of_mask = self._candidates[number].covered
            _, _, width, height = mask.crop_box
            if of_mask is not None and mask.mask.area <= MAX_COVER_SHARE * width * height:
                covered |= of_mask
        return covered

    def _without_small_regions(
        self, chosen: Sequence[EverythingMask], check: Callable[[], None]
    ) -> list[EverythingMask]:
        """Return masks without small regions, and without those that became duplicates, in the same order."""
        for each in chosen:
            if each.id not in self._cleaned:
                check()
                cleaned_mask = without_small_regions(each.mask, self._options.min_mask_region_area)
                # Runs: a mask of pixels takes 52 MB at 52 megapixels. One that did not change stays the same object.
                self._cleaned[each.id] = each.mask if cleaned_mask is each.mask else as_runs(cleaned_mask)
        cleaned = [self._cleaned[each.id] for each in chosen]
        is_unchanged = [mask is each.mask for each, mask in zip(chosen, cleaned, strict=True)]
        boxes = inclusive_boxes([mask.box for mask in cleaned])
        threshold = max(self._options.box_nms_thresh, CLEANED_NMS_THRESH)
        kept = without_duplicates(boxes, np.array(is_unchanged, np.float32), threshold)
        return [replace(chosen[i], mask=cleaned[i]) for i in sorted(kept.tolist())]

    def _evict(self) -> None:
        """Drop the worst candidates until three quarters of the memory are used."""
        ordered = sorted(self._candidates.values(), key=lambda one: (-one.quality, one.found.id))
        while self._nbytes > self._max_bytes * 3 // 4:
            worst = ordered.pop()
            self._nbytes -= _nbytes(worst)
            del self._candidates[worst.found.id]
            self._cleaned.pop(worst.found.id, None)


def _nbytes(candidate: Candidate) -> int:
    return int(candidate.found.mask.transitions.nbytes)
