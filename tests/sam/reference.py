"""Slow, short reference implementations in float64 for the tests of `service.sam`."""

import numpy as np

FRAME, GRID = 1024, 256


def frame_side(side, longest):
    """Return one side of an image inside the frame (docs/explanation/model.md, section 1.1)."""
    return int(np.floor(side * (FRAME / longest) + 0.5))


def bilinear(samples, height, width):
    """Resize a 2-D array bilinearly: pixel centres, edges repeated, no antialiasing."""
    for axis, length in ((0, height), (1, width)):
        last = samples.shape[axis] - 1
        at = np.clip((np.arange(length) + 0.5) * ((last + 1) / length) - 0.5, 0.0, last)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, last)
        samples = samples.take(low, axis) * (1.0 - share) + samples.take(high, axis) * share
    return samples


def upsampled(logits, frame):
    """Run steps 1 to 3 of docs/explanation/model.md, section 1.4, each in full; of a stretched image one step."""
    height, width = frame.size
    if frame.resize == "stretch":
        return bilinear(logits.astype(np.float64), height, width)
    whole = bilinear(logits.astype(np.float64), FRAME, FRAME)
    cut = whole[: frame_side(height, max(frame.size)), : frame_side(width, max(frame.size))]
    return bilinear(cut, height, width)


def rasterised(polygons, size):
    """Return the union of all parts, (H, W) bool. A pixel is in a part if its centre is inside, by the even-odd rule.

    For every row of pixel centres each edge that crosses it flips all pixels on its right.
    """
    height, width = size
    united = np.zeros(size, bool)
    for polygon in polygons:
        flips = np.zeros((height, width + 1), bool)
        for ring in [polygon["exterior"], *polygon["holes"]]:
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
                if y0 == y1:
                    continue
                low, high = sorted((y0, y1))
                rows = np.arange(int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5)))
                crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
                flips[rows, np.clip(np.ceil(crossing - 0.5).astype(int), 0, width)] ^= True
        united |= np.logical_xor.accumulate(flips, axis=1)[:, :width]
    return united
