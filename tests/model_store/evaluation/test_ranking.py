"""Candidates for the ranking rule are fitted to outputs whose IoU is known, and the simplest good one is chosen."""

import dataclasses
import math

import numpy as np
import pytest

from model_store.errors import UsageError
from model_store.evaluation.ranking.candidates import CANDIDATES, Candidate
from model_store.evaluation.ranking.cross_validation import (
    Choices,
    best_candidate,
    best_choices,
    choices_of,
    cross_validated,
    standard_error,
)
from model_store.evaluation.ranking.outputs import PointOutputs
from service.mask_rules import Ranking

BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
MARGIN = BY_NAME["output 0, or another that is more stable by a margin"]
LEAST_SQUARES = BY_NAME["least squares"]


def outputs_of(iou, stability=None, predicted_iou=None, photos=None):
    iou = np.array(iou, float)
    return PointOutputs(
        np.arange(len(iou)) if photos is None else np.array(photos),
        iou,
        np.full_like(iou, 0.5) if stability is None else np.array(stability, float),
        np.full_like(iou, 0.5) if predicted_iou is None else np.array(predicted_iou, float),
    )


def linear_outputs(count, *, seed=0, noise=0.0):
    """Outputs whose IoU is a sum of index, stability and predicted IoU, apart from noise; two objects a photo."""
    random = np.random.default_rng(seed)
    stability, predicted = random.uniform(0, 1, (2, count, 4))
    iou = np.array([0.2, 0.1, 0.15, 0.0]) + 0.3 * stability + 0.4 * predicted + random.normal(0, noise, (count, 4))
    return outputs_of(np.clip(iou, 0, 1), stability, predicted, photos=np.arange(count) // 2)


def test_output_0_comes_first_even_if_another_is_better():
    outputs = outputs_of([[0.1, 0.9, 0.2, 0.3], [0.3, 0.7, 0.4, 0.1]], stability=[[0, 1, 1, 1]] * 2)

    ranking = BY_NAME["output 0"].fit(outputs)

    assert ranking == Ranking(bias=(0.2, 0.2, 0.2, 0.2), stability=0.0)
    assert choices_of(ranking, outputs).outputs.tolist() == [[0, 0]]
    assert choices_of(ranking, outputs).miou == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["stability", "predicted IoU"])
def test_plain_rules_keep_their_order_and_get_the_scale_of_the_iou(name):
    """The IoU is 0.4 + 0.5 * x exactly, so the score is it."""
    x = np.random.default_rng(0).uniform(0, 1, (30, 4))
    outputs = outputs_of(0.4 + 0.5 * x, **{"stability" if name == "stability" else "predicted_iou": x})

    ranking = BY_NAME[name].fit(outputs)

    assert ranking.bias == (0.4, 0.4, 0.4, 0.4)
    assert (ranking.stability, ranking.predicted_iou) == ((0.5, 0.0) if name == "stability" else (0.0, 0.5))
    chosen = choices_of(ranking, outputs)
    np.testing.assert_array_equal(chosen.outputs[0], x.argmax(axis=1))
    assert chosen.calibration().error == pytest.approx(0.0, abs=1e-3)


def test_a_rule_with_negative_correlation_keeps_its_order():
    stability = np.random.default_rng(0).uniform(0, 1, (30, 4))
    outputs = outputs_of(0.9 - 0.5 * stability, stability)

    chosen = choices_of(BY_NAME["stability"].fit(outputs), outputs)

    np.testing.assert_array_equal(chosen.outputs[0], stability.argmax(axis=1))


def test_the_margin_lies_where_another_output_begins_to_be_better():
    """Output 1 is more stable by 0.01 to 0.40; it is the better one from 0.21 on, and the worse one below."""
    lead = np.arange(1, 41) / 100
    stability = np.stack([np.full(40, 0.5), 0.5 + lead, np.zeros(40), np.zeros(40)], axis=1)
    other = np.where(lead > 0.205, 0.9, 0.1)
    outputs = outputs_of(np.stack([np.full(40, 0.5), other, np.zeros(40), np.zeros(40)], axis=1), stability)

    ranking = MARGIN.fit(outputs)

    assert ranking.predicted_iou == 0.0
    assert 0.19 <= (ranking.bias[0] - ranking.bias[1]) / ranking.stability <= 0.21
    chosen = choices_of(ranking, outputs)
    assert chosen.miou == pytest.approx((20 * 0.5 + 20 * 0.9) / 40, abs=0.011), "within one step of the margins"
    assert chosen.output_0 == pytest.approx(0.5, abs=0.03)
    assert best_choices(outputs).miou == pytest.approx((20 * 0.5 + 20 * 0.9) / 40)


def test_least_squares_find_a_linear_rule_and_their_score_is_the_iou():
    outputs = linear_outputs(400)

    ranking = LEAST_SQUARES.fit(outputs)

    assert ranking.stability == pytest.approx(0.3, abs=0.01)
    assert ranking.predicted_iou == pytest.approx(0.4, abs=0.01)
    np.testing.assert_allclose(np.array(ranking.bias) - ranking.bias[3], [0.2, 0.1, 0.15, 0.0], atol=0.01)
    chosen = choices_of(ranking, outputs)
    assert chosen.miou == pytest.approx(best_choices(outputs).miou, abs=0.002)
    assert chosen.calibration().error < 0.01


def test_no_rule_chooses_for_a_photo_on_which_it_was_fitted():
    outputs = linear_outputs(40)
    fitted_on = []

    def fit(some):
        fitted_on.append(set(some.photos))
        return Ranking()

    cross_validated(outputs, [Candidate("spy", 0, fit)], folds=4, repeats=3)

    every = set(range(20))
    assert len(fitted_on) == 12
    for repeat in range(3):
        left_out = [every - photos for photos in fitted_on[4 * repeat : 4 * repeat + 4]]
        assert [len(photos) for photos in left_out] == [5] * 4
        assert set.union(*left_out) == every
    assert len({frozenset(photos) for photos in fitted_on}) == 12, "each repeat has other parts"


def test_too_few_photos_are_refused():
    with pytest.raises(UsageError, match="4 photos are too few"):
        cross_validated(linear_outputs(8))


def test_cross_validation_prefers_what_the_iou_depends_on():
    outputs = linear_outputs(200, noise=0.05)

    measured = cross_validated(outputs)

    mious = {candidate.name: choices.miou for candidate, choices in measured.items()}
    assert best_candidate(measured, outputs) == LEAST_SQUARES
    assert mious["least squares"] > max(mious["output 0"], mious["stability"], mious["predicted IoU"]) + 0.02


def test_the_standard_error_counts_photos_and_not_objects():
    """Differences are 0.1, 0.1 on one photo and -0.1, -0.1 on the other: (0.2² + 0.2²)^½ / 4."""
    outputs = outputs_of(np.zeros((4, 4)), photos=[7, 7, 9, 9])
    one, other = (choices_with([iou]) for iou in ([0.6, 0.6, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5]))

    assert standard_error(one, other, outputs) == pytest.approx(math.sqrt(0.08) / 4)


def choices_with(iou):
    iou = np.array(iou, float)
    return Choices(np.zeros(iou.shape, int), iou, iou)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        pytest.param([0.7, 0.5, 0.4, 0.3], "plain", id="worse by less than chance"),
        pytest.param([0.5, 0.5, 0.3, 0.39], "fitted", id="worse by more than chance"),
    ],
)
def test_the_simplest_candidate_that_is_as_good_wins(plain, expected):
    """The best one has 0.6, 0.6, 0.4, 0.4. First the differences are -0.1, 0.1, 0 and 0.1: mean 0.025, error 0.041.
    Then they are 0.1, 0.1, 0.1 and 0.01: mean 0.078, error 0.019.
    """
    outputs = outputs_of(np.zeros((4, 4)))
    candidates = {name: dataclasses.replace(LEAST_SQUARES, name=name) for name in ("plain", "fitted")}
    candidates["plain"] = dataclasses.replace(candidates["plain"], parameters=0)
    measured = {
        candidates["plain"]: choices_with([plain]),
        candidates["fitted"]: choices_with([[0.6, 0.6, 0.4, 0.4]]),
    }

    assert best_candidate(measured, outputs).name == expected
