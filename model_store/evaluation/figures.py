"""Findings as figures: means, medians and shares by method, and by size and source of the objects."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from model_store.evaluation.measures import calibration
from model_store.evaluation.protocol import Finding

SIZES = ("small", "medium", "large")
GOOD_IOU = 0.8
"""From this IoU on a mask counts as right: people see little to correct."""


def summary(findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """Figures of each method.

    Returns:
        By method: the figures of `of_objects` for all objects; `by_size` and `by_source` with the same figures for
        some of them; `calibration` of the predicted IoU by prompt, and `score_calibration` of what orders four masks.
    """
    methods = list(dict.fromkeys(finding.method for finding in findings))
    return {method: _of_method([one for one in findings if one.method == method]) for method in methods}


def of_objects(findings: Sequence[Finding]) -> dict[str, Any]:
    """Figures of one method on some objects.

    Returns:
        `instances`, the number of objects. By prompt (`box`, `box+1`, `auto`, see `prompt_name`): `miou`, the mean
        IoU; `good`, the share of IoUs of 0.8 and more; `boundary`, the mean IoU of outlines; `pieces`, the median
        number of 8-connected components of masks that are not empty; `obeyed`, the share of corrections that the next
        mask does what they ask for, and all of them as `all`. Shares and IoUs are 0..1. None: nothing to average.
    """
    by_prompt = _grouped(findings, prompt_name)
    corrections = {name: group for name, group in by_prompt.items() if group[0].step}
    return {
        "instances": max((len(group) for group in by_prompt.values()), default=0),
        "miou": {name: _mean(one.iou for one in group) for name, group in by_prompt.items()},
        "good": {name: _share_good(group) for name, group in by_prompt.items()},
        "boundary": {name: _mean(one.boundary for one in group) for name, group in by_prompt.items()},
        "pieces": {name: _median_pieces(group) for name, group in by_prompt.items()},
        "obeyed": {
            **{name: _share_obeyed(group) for name, group in corrections.items()},
            **({"all": _share_obeyed(findings)} if corrections else {}),
        },
    }


def prompt_name(finding: Finding) -> str:
    """How a prompt is called in figures and tables: `box`, `point+2`, `auto`, `point (oracle of 4)`."""
    if finding.choice == "auto":
        return "auto"
    more = f"+{finding.step}" if finding.step else ""
    choice = "" if finding.choice == "single" else f" ({finding.choice} of 4)"
    return f"{finding.start}{more}{choice}"


def _of_method(findings: Sequence[Finding]) -> dict[str, Any]:
    by_prompt = _grouped(findings, prompt_name)
    by_size = _grouped(findings, lambda one: one.size)
    by_source = _grouped(findings, lambda one: one.source)
    return {
        **of_objects(findings),
        "by_size": {size: of_objects(by_size[size]) for size in SIZES if size in by_size},
        "by_source": {source: of_objects(by_source[source]) for source in sorted(by_source)},
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


def _grouped(findings: Iterable[Finding], key: Callable[[Finding], str]) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for one in findings:
        groups.setdefault(key(one), []).append(one)
    return groups


def _calibration(scores: Sequence[float], group: Sequence[Finding]) -> dict[str, Any]:
    found = calibration(scores, [one.iou for one in group])
    return {
        "error": _known(found.error),
        "correlation": _known(found.correlation),
        "bins": [list(one) for one in found.bins],
    }


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None


def _share_good(group: Iterable[Finding]) -> float | None:
    return _mean(one.iou if math.isnan(one.iou) else float(one.iou >= GOOD_IOU) for one in group)


def _median_pieces(group: Iterable[Finding]) -> float | None:
    counts = [one.pieces for one in group if one.pieces]
    return float(np.median(counts)) if counts else None


def _share_obeyed(group: Iterable[Finding]) -> float | None:
    return _mean(float(one.is_obeyed) for one in group if one.is_obeyed is not None)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
