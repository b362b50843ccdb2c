"""Candidates for the ranking rule of a model, from the simplest to the one with most parameters, and their fits.

Each fit scales its rule so that the score predicts the IoU. Scaling changes no order. Letters: n objects, 4 outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model_store.errors import UsageError
from model_store.evaluation.ranking.outputs import PointOutputs
from model_store.evaluation.ranking.scores import Doubles
from service.mask_rules import Ranking

RIDGE = 10.0
"""Strength of the least squares' prior, as a number of outputs whose IoU is the mean."""
_LEAST_SLOPE = 0.01
_MARGINS = 21
_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of rule.

    Args:
        name: Name in tables.
        parameters: Number of fitted parameters that influence the order; those that only scale the score do not count.
        fit: Function that fits the rule to outputs.
    """

    name: str
    parameters: int
    fit: Callable[[PointOutputs], Ranking]


@dataclass(frozen=True, slots=True)
class _LinearRule:
    """A rule before it is scaled: ``bias[k] + stability * stability_k + predicted_iou * predicted_iou_k``."""

    bias: Doubles  # (4,)
    stability: float
    predicted_iou: float

    def values(self, outputs: PointOutputs) -> Doubles:
        """Return the unscaled scores, (n, 4)."""
        values: Doubles = self.bias + self.stability * outputs.stability + self.predicted_iou * outputs.predicted_iou
        return values

    def with_margin(self, margin: float) -> "_LinearRule":
        """Return the rule that takes output 0 unless another output is better by the margin."""
        return _LinearRule(self.bias + np.array([margin, 0.0, 0.0, 0.0]), self.stability, self.predicted_iou)


_STABILITY = _LinearRule(np.zeros(4), 1.0, 0.0)
_PREDICTED_IOU = _LinearRule(np.zeros(4), 0.0, 1.0)


def _output_0(outputs: PointOutputs) -> Ranking:
    """Rank output 0 first; the score of each output is its mean IoU, at most that of output 0."""
    means = outputs.iou.mean(axis=0)
    return _rounded_ranking(_LinearRule(np.minimum(means, means[0]), 0.0, 0.0))


def _least_squares(outputs: PointOutputs) -> _LinearRule:
    """Fit the true IoU of all outputs to index, stability and predicted IoU, by ridge least squares."""
    features = np.stack([outputs.stability, outputs.predicted_iou], axis=-1)  # (n, 4, 2)
    means, deviations = features.mean(axis=(0, 1)), np.maximum(features.std(axis=(0, 1)), 1e-6)
    index = np.broadcast_to(np.eye(4), (len(outputs), 4, 4))
    ones = np.ones((len(outputs), 4, 1))
    table = np.concatenate([ones, index, (features - means) / deviations], axis=-1).reshape(-1, 7)
    prior = RIDGE * np.diag([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # all but the mean
    solution = np.linalg.solve(table.T @ table + prior, table.T @ outputs.iou.ravel())
    weights = solution[5:] / deviations
    return _LinearRule(solution[0] + solution[1:5] - float(weights @ means), float(weights[0]), float(weights[1]))


def _with_best_margin(rule: _LinearRule, outputs: PointOutputs) -> _LinearRule:
    """Return the rule with the margin for output 0 that chooses the best masks; of equally good margins the largest.

    The candidates for the margin are 0 and quantiles of the distances at which an object's choice changes.
    """
    values = rule.values(outputs)
    others = values[:, 1:].argmax(axis=1) + 1
    every = np.arange(len(outputs))
    distances = values[every, others] - values[:, 0]
    quantiles = np.quantile(distances, np.linspace(0.0, 1.0, _MARGINS))
    margins = np.array([0.0, *(quantile for quantile in quantiles if quantile > 0.0)])
    is_other = distances > margins[:, None]  # (margins, n)
    means = np.where(is_other, outputs.iou[every, others], outputs.iou[:, 0]).mean(axis=1)
    best = len(means) - 1 - int(means[::-1].argmax())
    return rule.with_margin(float(margins[best]))


def _scaled(rule: _LinearRule, outputs: PointOutputs) -> _LinearRule:
    """Return a rule of the same order whose scores predict the IoU of all outputs, by least squares."""
    values = rule.values(outputs)
    spread = values.std()
    covariance = float(((values - values.mean()) * (outputs.iou - outputs.iou.mean())).mean())
    # Even where a rule and the IoU are not correlated, the slope stays positive, since it must keep the order.
    slope = max(covariance / spread**2, _LEAST_SLOPE) if spread > 0 else 1.0
    offset = float(outputs.iou.mean()) - slope * float(values.mean())
    return _LinearRule(slope * rule.bias + offset, slope * rule.stability, slope * rule.predicted_iou)


def _rounded_ranking(rule: _LinearRule) -> Ranking:
    """Return the rule with few decimals, so that a manifest stays readable."""
    first, second, third, fourth = (round(float(value), _DECIMALS) for value in rule.bias)
    return Ranking(
        bias=(first, second, third, fourth),
        stability=round(rule.stability, _DECIMALS),
        predicted_iou=round(rule.predicted_iou, _DECIMALS),
    )


def _fit(rule: Callable[[PointOutputs], _LinearRule], *, has_margin: bool = False) -> Callable[[PointOutputs], Ranking]:
    def fit(outputs: PointOutputs) -> Ranking:
        fitted = rule(outputs)
        if has_margin:
            fitted = _with_best_margin(fitted, outputs)
        return _rounded_ranking(_scaled(fitted, outputs))

    return fit


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("output 0", 0, _output_0),
    Candidate("stability", 0, _fit(lambda _: _STABILITY)),
    Candidate("predicted IoU", 0, _fit(lambda _: _PREDICTED_IOU)),
    Candidate("output 0, or another that is more stable by a margin", 1, _fit(lambda _: _STABILITY, has_margin=True)),
    Candidate(
        "output 0, or another of predicted IoU higher by a margin", 1, _fit(lambda _: _PREDICTED_IOU, has_margin=True)
    ),
    Candidate("least squares", 5, _fit(_least_squares)),
    Candidate("least squares, output 0 by a margin", 6, _fit(_least_squares, has_margin=True)),
)


def candidate_named(name: str) -> Candidate:
    """Return the candidate of a name.

    Raises:
        UsageError: There is none; the message lists the names.
    """
    for candidate in CANDIDATES:
        if candidate.name == name:
            return candidate
    raise UsageError(f"no rule is called {name!r}; there are: {'; '.join(one.name for one in CANDIDATES)}")
