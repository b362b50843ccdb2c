"""A segmenter with fixed masks, so that the measurements are known beforehand."""

from contextlib import nullcontext

import numpy as np

from model_store.evaluation.protocol import evaluate
from model_store.evaluation.segmenters.segmenter import Predictions

EMPTY = np.full((256, 256), -4.0, np.float32)
"""Logits of an empty mask."""


class FixedSegmenter:
    """Predicts the same mask at every step, and four fixed masks for a single point.

    Args:
        single: Logits of output 0, (256, 256).
        four: Logits of four masks in the order of their scores, (4, 256, 256). Default: four times `single`.
        stability: Stability scores of the four masks.
        predicted: Predicted IoU of output 0 and of each of the four masks.
    """

    name = "fixed"
    resize = "letterbox"

    def __init__(self, single, four=None, *, stability=(0.8, 0.7, 0.6, 0.5), predicted=0.5):
        self._single = single
        self._four = np.stack([single] * 4) if four is None else np.stack(four)
        self._stability, self._predicted = np.array(stability, np.float32), predicted
        self.prompts = []

    def embed(self, photo):
        return photo

    def predict(self, embedded, prompts):
        self.prompts.append(prompts)
        count = len(prompts)
        scores = np.full((count, 1), self._predicted, np.float32)
        return Predictions(np.broadcast_to(self._single, (count, 1, 256, 256)), scores, scores, scores)

    def predict_point(self, embedded, prompts):
        count = len(prompts)
        predicted = np.full((count, 4), self._predicted, np.float32)
        score = np.tile(np.array([0.9, 0.8, 0.7, 0.6]), (count, 1))
        logits = np.broadcast_to(self._four, (count, 4, 256, 256))
        return self.predict(embedded, prompts), Predictions(
            logits, predicted, np.tile(self._stability, (count, 1)), score
        )


def mask_logits_of(photo, *, share=1.0):
    """Return logits of the photo's first mask, which fills whole cells, or of the left part of it."""
    logits = EMPTY.copy()
    x0, y0, x1, y1 = (round(value * 16 / 4) for value in photo.masks[0].box)  # 64 pixels fill the frame of 1024
    logits[y0:y1, x0 : x0 + round(share * (x1 - x0))] = 4.0
    return logits


def measured(photos, segmenter, protocol):
    """Return the measurements of one segmenter, without baselines."""
    return evaluate(photos, lambda: nullcontext([segmenter]), protocol, baselines=False)
