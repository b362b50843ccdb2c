"""The masks of a prompt are scored by the manifest's rule and ordered by that score."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.mask_rules import Ranking, limited_score
from service.sam.masks import rank

ALL = (0, 1, 2, 3)
NAN, INF = math.nan, math.inf

weights = st.floats(-100, 100)
rules = st.builds(Ranking, bias=st.tuples(weights, weights, weights, weights), stability=weights, predicted_iou=weights)
stabilities = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)
# Few values, so that ties are common, and all invalid values that a broken graph could return.
hostile = st.lists(st.sampled_from([0.0, 0.25, 0.25, 1.0, -3.0, NAN, INF, -INF]), min_size=4, max_size=4)
choices = st.lists(st.sampled_from(ALL), min_size=1, max_size=4, unique=True)


@given(rules, hostile, hostile)
def test_a_limited_score_lies_in_0_to_1_or_is_missing(rule, stability, predicted_iou):
    scores = [limited_score(score) for score in rule.scores(stability, predicted_iou)]

    assert len(scores) == 4
    assert all(math.isnan(score) or 0.0 <= score <= 1.0 for score in scores)


@given(rules, stabilities, st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_a_score_is_the_sum_of_bias_stability_and_predicted_iou(rule, stability, predicted_iou):
    scores = rule.scores(stability, predicted_iou)

    for k in ALL:
        total = rule.bias[k] + rule.stability * stability[k] + rule.predicted_iou * predicted_iou[k]
        assert scores[k] == pytest.approx(total, abs=1e-12)
        assert limited_score(scores[k]) == pytest.approx(min(1.0, max(0.0, total)), abs=1e-12)


@given(stabilities, hostile)
def test_the_default_rule_is_the_stability_whatever_the_predicted_iou(stability, predicted_iou):
    assert Ranking().scores(stability, predicted_iou) == tuple(stability)


@given(stabilities, hostile)
def test_a_weight_of_zero_leaves_the_stability_out(predicted_iou, stability):
    assert Ranking(stability=0.0, predicted_iou=1.0).scores(stability, predicted_iou) == tuple(predicted_iou)


def test_nan_in_a_term_that_counts_makes_the_score_missing():
    scores = Ranking(predicted_iou=0.5).scores([NAN, 0.5, 0.5, 0.5], [0.5, NAN, 0.5, -INF])

    assert math.isnan(scores[0])
    assert math.isnan(scores[1])
    assert scores[2:] == (0.75, -INF)
    assert limited_score(scores[3]) == 0.0
    assert math.isnan(limited_score(scores[0]))


def test_scores_need_a_number_for_each_output():
    with pytest.raises(ValueError, match="zip"):
        Ranking().scores([0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("scores", "indices", "expected"),
    [
        ((0.5, 0.9, 0.5, 0.95), ALL, (3, 1, 0, 2)),
        ((0.5, 0.9, 0.5, 0.95), (1, 2, 3), (3, 1, 2)),
        ((0.5, 0.9, 0.5, 0.95), (0,), (0,)),
        ((NAN, 0.0, 0.2, NAN), ALL, (2, 1, 0, 3)),
    ],
)
def test_the_highest_score_comes_first(scores, indices, expected):
    assert rank(scores, indices) == expected


@given(hostile, choices)
def test_outputs_are_ordered_by_score_ties_by_index_and_missing_scores_last(scores, indices):
    order = rank(scores, indices)

    assert sorted(order) == sorted(indices)
    missing = [index for index in order if math.isnan(scores[index])]
    known = [index for index in order if not math.isnan(scores[index])]
    assert list(order) == known + missing
    assert missing == sorted(missing)
    for before, after in pairwise(known):
        assert (-scores[before], before) < (-scores[after], after)


@given(hostile, choices, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_choices(scores, indices, random):
    shuffled = list(indices)
    random.shuffle(shuffled)

    assert rank(scores, shuffled) == rank(scores, indices)


@given(stabilities, st.floats(0, 1))
def test_a_bias_keeps_output_0_first_unless_another_is_higher_by_more(stability, margin):
    rule = Ranking(bias=(margin, 0.0, 0.0, 0.0))

    first = rank(rule.scores(stability, [0.0] * 4), ALL)[0]

    # Equal scores are ordered by index.
    is_beaten = max(stability[1:]) > margin + stability[0]
    assert (first != 0) is is_beaten


@pytest.mark.parametrize(
    "predicted_iou", [(1.5, 1.02, 1.01, 1.04), (0.1, -0.3, -0.4, -0.1)], ids=["above 1", "below 0"]
)
def test_predicted_ious_outside_0_to_1_order_masks_as_callers_of_the_official_predictors_do(predicted_iou):
    rule = Ranking(stability=0.0, predicted_iou=1.0)

    order = rank(rule.scores((1.0, 1.0, 1.0, 1.0), predicted_iou), (1, 2, 3))

    assert order == (3, 1, 2)


@given(rules, stabilities)
def test_three_masks_are_ordered_as_they_are_among_all_four(rule, stability):
    scores = rule.scores(stability, stability)

    assert rank(scores, (0,)) == (0,)
    assert rank(scores, (1, 2, 3)) == tuple(k for k in rank(scores, ALL) if k != 0)


@pytest.mark.parametrize(
    "members",
    [
        {"stability": NAN}, {"predicted_iou": INF}, {"stability": 101}, {"bias": (0, 0, 0)}, {"bias": (0, 0, 0, -INF)},
        {"margin": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_without_a_defined_order_is_refused(members):
    with pytest.raises(ValidationError):
        Ranking.model_validate(members)
