"""Means, medians and shares of measurements by method, and by size and source of the objects."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from model_store.evaluation.metrics import calibration
from model_store.evaluation.protocol import Measurement

SIZES = ("small", "medium", "large")
GOOD_IOU = 0.8
"""IoU from which on a mask counts as right: little is left to correct."""


def summary(measurements: Sequence[Measurement]) -> dict[str, dict[str, Any]]:
    """Return the figures of each method.

    Returns:
        By method: the figures of `figures_of` for all objects; `by_size` and `by_source` with the same figures for
        some of them; `calibration` of the predicted IoU by prompt, and `score_calibration` of the ranking score.
    """
    by_method = _grouped(measurements, lambda one: one.method)
    return {method: _method_figures(group) for method, group in by_method.items()}


def figures_of(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return the figures of one method on some objects.

    Returns:
        `instances`, the number of objects. By prompt (`box`, `box+1`, `auto`, see `prompt_name`): `miou`, the mean
        IoU; `good`, the share of IoUs of 0.8 and more; `boundary`, the mean boundary IoU; `pieces`, the median
        number of 8-connected components of masks that are not empty; `obeyed`, the share of corrections that the next
        mask obeys, and that of all corrections as `all`. Shares and IoUs are 0..1; None where there is no value.
    """
    by_prompt = _grouped(measurements, prompt_name)
    corrections = {name: group for name, group in by_prompt.items() if group[0].step}
    return {
        "instances": max((len(group) for group in by_prompt.values()), default=0),
        "miou": {name: _mean(one.iou for one in group) for name, group in by_prompt.items()},
        "good": {name: _share_good(group) for name, group in by_prompt.items()},
        "boundary": {name: _mean(one.boundary for one in group) for name, group in by_prompt.items()},
        "pieces": {name: _median_pieces(group) for name, group in by_prompt.items()},
        "obeyed": {
            **{name: _share_obeyed(group) for name, group in corrections.items()},
            **({"all": _share_obeyed(measurements)} if corrections else {}),
        },
    }


def prompt_name(measurement: Measurement) -> str:
    """Return the name of a prompt in figures and tables: `box`, `point+2`, `auto`, `point (oracle of 4)`."""
    if measurement.choice == "auto":
        return "auto"
    more = f"+{measurement.step}" if measurement.step else ""
    choice = "" if measurement.choice == "single" else f" ({measurement.choice} of 4)"
    return f"{measurement.start}{more}{choice}"


def _method_figures(measurements: Sequence[Measurement]) -> dict[str, Any]:
    by_prompt = _grouped(measurements, prompt_name)
    by_size = _grouped(measurements, lambda one: one.size)
    by_source = _grouped(measurements, lambda one: one.source)
    return {
        **figures_of(measurements),
        "by_size": {size: figures_of(by_size[size]) for size in SIZES if size in by_size},
        "by_source": {source: figures_of(by_source[source]) for source in sorted(by_source)},
        "calibration": {
            name: _calibration([one.predicted for one in group], group)
            for name, group in by_prompt.items()
            if any(not math.isnan(one.predicted) for one in group)
        },
        "score_calibration": {
            name: _calibration([one.score for one in group], group)
            for name, group in by_prompt.items()
            if name == "auto"
        },
    }


def _grouped(measurements: Iterable[Measurement], key: Callable[[Measurement], str]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault(key(one), []).append(one)
    return groups


def _calibration(scores: Sequence[float], group: Sequence[Measurement]) -> dict[str, Any]:
    found = calibration(scores, [one.iou for one in group])
    return {
        "error": _none_if_nan(found.error),
        "correlation": _none_if_nan(found.correlation),
        "bins": [list(one) for one in found.bins],
    }


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None


def _share_good(group: Iterable[Measurement]) -> float | None:
    return _mean(one.iou if math.isnan(one.iou) else float(one.iou >= GOOD_IOU) for one in group)


def _median_pieces(group: Iterable[Measurement]) -> float | None:
    counts = [one.pieces for one in group if one.pieces]
    return float(np.median(counts)) if counts else None


def _share_obeyed(group: Iterable[Measurement]) -> float | None:
    return _mean(float(one.is_obeyed) for one in group if one.is_obeyed is not None)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
