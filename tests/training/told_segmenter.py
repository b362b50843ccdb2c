"""A segmenter that answers with the masks it is told to: what is measured is then known beforehand."""

from contextlib import nullcontext

import numpy as np

from model_store.evaluation.protocol import evaluate
from model_store.evaluation.segmenters import Answers

NOTHING = np.full((256, 256), -4.0, np.float32)


class ToldSegmenter:
    """Answers the same at every step; to one click alone with four masks, the first of them first.

    Args:
        single: (256, 256) logits of output 0.
        four: (4, 256, 256) logits in the order of their scores; default: four times `single`.
        stability: of the four.
        predicted: IoU that is predicted for output 0, and for each of the four.
    """

    name = "told"

    def __init__(self, single, four=None, *, stability=(0.8, 0.7, 0.6, 0.5), predicted=0.5):
        self._single = single
        self._four = np.stack([single] * 4) if four is None else np.stack(four)
        self._stability, self._predicted = np.array(stability, np.float32), predicted
        self.asked = []

    def embed(self, photo):
        return photo

    def answer(self, embedded, asked):
        self.asked.append(asked)
        count = len(asked)
        scores = np.full((count, 1), self._predicted, np.float32)
        return Answers(np.broadcast_to(self._single, (count, 1, 256, 256)), scores, scores, scores)

    def answer_click(self, embedded, asked):
        count = len(asked)
        predicted = np.full((count, 4), self._predicted, np.float32)
        score = np.tile(np.array([0.9, 0.8, 0.7, 0.6]), (count, 1))
        logits = np.broadcast_to(self._four, (count, 4, 256, 256))
        return self.answer(embedded, asked), Answers(logits, predicted, np.tile(self._stability, (count, 1)), score)


def drawn(photo, *, share=1.0):
    """Logits of the photo's first mask, which fills whole cells, or of its left part."""
    logits = NOTHING.copy()
    x0, y0, x1, y1 = (round(value * 16 / 4) for value in photo.masks[0].box)  # 64 pixels fill the frame of 1024
    logits[y0:y1, x0 : x0 + round(share * (x1 - x0))] = 4.0
    return logits


def measured(photos, segmenter, protocol):
    """Findings about one segmenter, without baselines."""
    return evaluate(photos, lambda: nullcontext([segmenter]), protocol, baselines=False)
