"""Cross-validation of candidates for the ranking rule over photos, and the choice of one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.errors import UsageError
from model_store.evaluation.metrics import Calibration, calibration
from model_store.evaluation.ranking.candidates import CANDIDATES, Candidate
from model_store.evaluation.ranking.outputs import PointOutputs
from model_store.evaluation.ranking.scores import Doubles
from model_store.evaluation.summary import GOOD_IOU
from service.mask_rules import Ranking

FOLDS = 5
REPEATS = 10
"""Number of partitions into folds; a single one moves a mean by as much as two candidates differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The outputs that a rule puts first.

    Attributes:
        outputs: Index of the chosen output of each object in each of r repeats, (r, n).
        iou: True IoUs of the chosen outputs, (r, n), 0..1.
        score: Scores of the chosen outputs, (r, n), 0..1.
    """

    outputs: NDArray[np.int64]
    iou: Doubles
    score: Doubles

    @property
    def miou(self) -> float:
        """Mean IoU of the chosen masks."""
        return float(self.iou.mean())

    @property
    def good(self) -> float:
        """Share of the chosen masks whose IoU is 0.8 or more."""
        return float((self.iou >= GOOD_IOU).mean())

    @property
    def output_0(self) -> float:
        """Share of objects whose output 0 is chosen."""
        return float((self.outputs == 0).mean())

    def calibration(self) -> Calibration:
        """Return the agreement of the chosen masks' scores with their IoU."""
        return calibration(self.score.ravel().tolist(), self.iou.ravel().tolist())


def choices_of(ranking: Ranking, outputs: PointOutputs) -> Choices:
    """Return the choices of one rule, r = 1."""
    first, iou, score = outputs.chosen(ranking)
    return Choices(first[None], iou[None], score[None])


def best_choices(outputs: PointOutputs) -> Choices:
    """Return the best output of each object, which no rule can exceed; the scores are the true IoUs."""
    first = outputs.iou.argmax(axis=1)
    best = outputs.iou.max(axis=1)
    return Choices(first[None], best[None], best[None])


def cross_validated(
    outputs: PointOutputs,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[Candidate, Choices]:
    """Return the choices of each candidate for objects of photos on which it was not fitted.

    Args:
        outputs: Four outputs of each of n objects.
        candidates: Rules to fit.
        folds: Number of parts of the photos; rules that were fitted on the other parts choose for each part.
        repeats: Number of partitions into such parts.
        seed: Seed of the partitions.

    Raises:
        UsageError: There are fewer photos than folds.
    """
    photos, photo = np.unique(outputs.photos, return_inverse=True)
    if len(photos) < folds:
        raise UsageError(f"{len(photos)} photos are too few to choose a rule; give {folds} or more, better a hundred")
    random = np.random.default_rng(seed)
    partitions = [(random.permutation(len(photos)) % folds)[photo] for _ in range(repeats)]
    return {candidate: _out_of_fold(candidate, outputs, partitions, folds) for candidate in candidates}


def best_candidate(measured: Mapping[Candidate, Choices], outputs: PointOutputs) -> Candidate:
    """Return the candidate with the fewest parameters among those that are as good as the best one.

    A candidate is as good if its mean IoU is lower by at most one standard error of the difference, over photos. Of
    several with equally few parameters the best one is taken. Source: Breiman et al. 1984, one-standard-error rule.
    """
    best = max(measured.values(), key=lambda choices: choices.miou)
    as_good = {
        candidate: choices.miou
        for candidate, choices in measured.items()
        if best.miou - choices.miou <= standard_error(best, choices, outputs)
    }
    return min(as_good, key=lambda candidate: (candidate.parameters, -as_good[candidate]))


def standard_error(choices: Choices, other: Choices, outputs: PointOutputs) -> float:
    """Return the standard error of the difference of two mean IoUs; objects of one photo are not independent."""
    difference = choices.iou.mean(axis=0) - other.iou.mean(axis=0)
    photos, photo = np.unique(outputs.photos, return_inverse=True)
    sums = np.zeros(len(photos))
    np.add.at(sums, photo, difference - difference.mean())
    return math.sqrt(float((sums**2).sum())) / len(outputs)


def _out_of_fold(
    candidate: Candidate, outputs: PointOutputs, partitions: Sequence[NDArray[np.int64]], folds: int
) -> Choices:
    shape = (len(partitions), len(outputs))
    first, iou, score = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    for repeat, fold in enumerate(partitions):
        for held_out in (fold == number for number in range(folds)):
            ranking = candidate.fit(outputs.rows(~held_out))
            first[repeat, held_out], iou[repeat, held_out], score[repeat, held_out] = outputs.rows(held_out).chosen(
                ranking
            )
    return Choices(first, iou, score)
