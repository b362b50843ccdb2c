"""Everything mode written plainly, one box and one pixel at a time: what the fast steps have to agree with."""

from collections import deque

import numpy as np


def suppressed(boxes, scores, threshold):
    """Return the indices of boxes that greedy suppression keeps, best first.

    Args:
        boxes: n boxes as x0, y0, x1, y1.
        scores: n scores.
        threshold: IoU above which the worse of two boxes goes.
    """
    order = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    kept = []
    for i in order:
        if all(not iou_of(boxes[kept_one], boxes[i]) > threshold for kept_one in kept):
            kept.append(i)
    return kept


def iou_of(first, second):
    """Return the IoU of two boxes in float32, without the last column and row; NaN for two boxes without area."""
    f = np.float32
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = ([f(value) for value in box] for box in (first, second))
    width = max(f(0), min(ax1, bx1) - max(ax0, bx0))
    height = max(f(0), min(ay1, by1) - max(ay0, by0))
    shared = width * height
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    return float("nan") if union == 0 else float(shared / union)


def inclusive_box(pixels):
    """Return the first and last column and row of a mask as x0, y0, x1, y1; zeros for an empty one."""
    ys, xs = np.nonzero(pixels)
    return (0, 0, 0, 0) if len(xs) == 0 else (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max()))


def stability(logits, offset):
    """Return the stability of one mask in float32; NaN where no logit is above minus the offset."""
    above = sum(1 for value in logits.ravel().tolist() if value > offset)
    almost = sum(1 for value in logits.ravel().tolist() if value > -offset)
    return np.float32(above / almost) if almost else np.float32("nan")


def without_small_regions(pixels, area):
    """Return a mask with small holes filled and small islands removed, by flood fill, and whether there were any.

    Args:
        pixels: Mask, (H, W) bool.
        area: Number of pixels of which a region needs at least as many to stay.
    """
    if not pixels.any():
        return pixels, False
    filled = pixels.copy()
    small_holes = [hole for hole in regions(~pixels) if len(hole) < area]
    for hole in small_holes:
        filled[tuple(np.transpose(hole))] = True
    islands = regions(filled)
    large = [island for island in islands if len(island) >= area]
    cleaned = np.zeros_like(pixels)
    for island in large or [max(islands, key=len)]:
        cleaned[tuple(np.transpose(island))] = True
    return cleaned, bool(small_holes) or len(large) < len(islands)


def regions(pixels):
    """Return the 8-connected regions of True pixels as lists of (y, x), ordered by their first pixel row by row."""
    height, width = pixels.shape
    seen = np.zeros_like(pixels)
    found = []
    for start in np.argwhere(pixels):
        if seen[tuple(start)]:
            continue
        seen[tuple(start)] = True
        region, waiting = [], deque([tuple(start.tolist())])
        while waiting:
            y, x = waiting.popleft()
            region.append((y, x))
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                is_inside = 0 <= near[0] < height and 0 <= near[1] < width
                if is_inside and pixels[near] and not seen[near]:
                    seen[near] = True
                    waiting.append(near)
        found.append(region)
    return found


def result_ids(candidates, options, cleaned_threshold):
    """Return the ids of the masks of a result, best first, from all candidates at once.

    Args:
        candidates: Tuples (id, quality, pixels (H, W) bool).
        options: Options of the request.
        cleaned_threshold: Least IoU above which masks are duplicates after small regions were removed.
    """
    ordered = sorted(candidates, key=lambda one: one[0])
    boxes = [inclusive_box(pixels) for _, _, pixels in ordered]
    kept = suppressed(boxes, [np.float32(quality) for _, quality, _ in ordered], options.box_nms_thresh)
    best = [ordered[i] for i in kept[: options.max_masks]]
    if options.min_mask_region_area == 0:
        return [one[0] for one in best]
    cleaned = [without_small_regions(pixels, options.min_mask_region_area) for _, _, pixels in best]
    boxes = [inclusive_box(pixels) for pixels, _ in cleaned]
    is_same = [0.0 if is_changed else 1.0 for _, is_changed in cleaned]
    kept = suppressed(boxes, is_same, max(options.box_nms_thresh, cleaned_threshold))
    return [best[i][0] for i in sorted(kept)]
