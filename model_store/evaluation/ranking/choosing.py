"""Measures candidates for the ranking rule by cross-validation over photos, and chooses one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import UsageError
from model_store.evaluation.figures import GOOD_IOU
from model_store.evaluation.measures import Calibration, calibration
from model_store.evaluation.ranking.candidates import CANDIDATES, Candidate
from model_store.evaluation.ranking.outputs import ClickOutputs
from model_store.evaluation.ranking.rule import Doubles
from service.manifest import Ranking

FOLDS = 5
REPEATS = 10
"""Partitions into folds; one alone moves a mean by as much as two candidates differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The outputs that a rule puts first.

    Attributes:
        outputs: (r, n) index of the chosen output of each object in each of r repeats.
        iou: (r, n) its true IoU.
        score: (r, n) its score.
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
        """How the scores of the chosen masks agree with their IoU."""
        return calibration(self.score.ravel().tolist(), self.iou.ravel().tolist())


def choices_of(ranking: Ranking, outputs: ClickOutputs) -> Choices:
    """What one rule chooses from outputs, r = 1."""
    first, iou, score = outputs.chosen(ranking)
    return Choices(first[None], iou[None], score[None])


def best_choices(outputs: ClickOutputs) -> Choices:
    """The best output of each object: what no rule can exceed. Its scores are the true IoUs."""
    first = outputs.iou.argmax(axis=1)
    best = outputs.iou.max(axis=1)
    return Choices(first[None], best[None], best[None])


def cross_validated(
    outputs: ClickOutputs,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[Candidate, Choices]:
    """What each candidate chooses for objects of photos that it was not fitted on.

    Args:
        outputs: Four outputs of n objects.
        candidates: Rules to fit.
        folds: Parts that the photos fall into; each part is chosen for by rules fitted on the others.
        repeats: Partitions, each with other parts.
        seed: Decides the partitions.

    Raises:
        UsageError: There are fewer photos than folds.
    """
    photos, photo = np.unique(outputs.photos, return_inverse=True)
    if len(photos) < folds:
        raise UsageError(f"{len(photos)} photos are too few to choose a rule; give {folds} or more, better a hundred")
    random = np.random.default_rng(seed)
    partitions = [(random.permutation(len(photos)) % folds)[photo] for _ in range(repeats)]
    return {candidate: _out_of_fold(candidate, outputs, partitions, folds) for candidate in candidates}


def winner(measured: Mapping[Candidate, Choices], outputs: ClickOutputs) -> Candidate:
    """The candidate with the fewest parameters among those that are as good as the best one.

    As good means: the mean IoU is lower by no more than one standard error of the difference, over photos. Of several
    with as few parameters the best one. Source: Breiman et al. 1984, the one-standard-error rule.
    """
    best = max(measured.values(), key=lambda one: one.miou)
    as_good = {
        candidate: one.miou
        for candidate, one in measured.items()
        if best.miou - one.miou <= standard_error(best, one, outputs)
    }
    return min(as_good, key=lambda candidate: (candidate.parameters, -as_good[candidate]))


def standard_error(one: Choices, other: Choices, outputs: ClickOutputs) -> float:
    """Standard error of the difference of two mean IoUs; objects of one photo are not independent."""
    difference = one.iou.mean(axis=0) - other.iou.mean(axis=0)
    photos, photo = np.unique(outputs.photos, return_inverse=True)
    sums = np.zeros(len(photos))
    np.add.at(sums, photo, difference - difference.mean())
    return math.sqrt(float((sums**2).sum())) / len(outputs)


def _out_of_fold(
    candidate: Candidate, outputs: ClickOutputs, partitions: Sequence[NDArray[np.int64]], folds: int
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
