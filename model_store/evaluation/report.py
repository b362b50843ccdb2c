"""Findings as figures: a summary for files and tables, and a sheet with the best, middle and worst masks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.instances import instance, to_photo
from model_store.evaluation.measures import calibration
from model_store.evaluation.protocol import STARTS, Finding, first_prompts
from model_store.evaluation.segmenters import Segmenter
from model_store.training.data.annotations import PhotoRecord

SIZES = ("small", "medium", "large")
_CELL_PIXELS = 240
_TRUTH, _ANSWER = (60, 220, 60), (255, 80, 60)  # RGB


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Mean IoU by method, prompt and corrections, and what more was measured.

    Returns:
        By method: `miou` by prompt (`box`, `box+1`, `point best of four`, …), `by_size`, `boundary`, `calibration`
        and `instances`.
    """
    methods = list(dict.fromkeys(finding.method for finding in findings))
    return {method: _of_method([one for one in findings if one.method == method]) for method in methods}


def prompt_name(finding: Finding) -> str:
    """How a prompt is called in tables: `box`, `point+2`, `point (oracle of 4)`."""
    more = f"+{finding.step}" if finding.step else ""
    choice = "" if finding.choice == "single" else f" ({finding.choice} of 4)"
    return f"{finding.start}{more}{choice}"


def table_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table: methods by prompts, percent."""
    columns = list(dict.fromkeys(name for method in figures.values() for name in method["miou"]))
    rows = [
        [method, *(_percent(figure["miou"].get(column)) for column in columns)] for method, figure in figures.items()
    ]
    return ["mIoU, %", *columns], rows


def size_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table by size of object: first prompts alone."""
    starts = [start for start in STARTS if any(start in figure["by_size"] for figure in figures.values())]
    header = ["mIoU by size, %", *(f"{start}, {size}" for start in starts for size in SIZES)]
    rows = [
        [method, *(_percent(figure["by_size"].get(start, {}).get(size)) for start in starts for size in SIZES)]
        for method, figure in figures.items()
    ]
    return header, rows


def boundary_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of outlines: first prompts alone, as those of the baselines."""
    starts = [start for start in STARTS if any(start in figure["boundary"] for figure in figures.values())]
    rows = [
        [method, *(_percent(figure["boundary"].get(start)) for start in starts)] for method, figure in figures.items()
    ]
    return ["IoU of outlines, %", *starts], rows


def calibration_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of scores: how far the predicted IoU is from the true one, and how they go together.

    Methods without a score are left out.
    """
    scored = {method: figure["calibration"] for method, figure in figures.items() if figure["calibration"]}
    columns = [start for start in STARTS if any(start in found for found in scored.values())]
    header = ["predicted IoU", *(f"{column}, {what}" for column in columns for what in ("error", "correlation"))]
    rows = [
        [method, *(f"{found[column][what]:.2f}" for column in columns for what in ("error", "correlation"))]
        for method, found in scored.items()
    ]
    return header, rows


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def contact_sheet(
    photos: Sequence[PhotoRecord], segmenter: Segmenter, findings: Sequence[Finding], *, each: int = 8
) -> NDArray[np.uint8]:
    """Best, middle and worst masks of the box prompt, three rows of `each`: the annotation green, the answer red.

    Returns:
        (H, W, 3) RGB.
    """
    own = [
        one
        for one in findings
        if (one.method, one.start, one.step, one.choice) == (segmenter.name, "box", 0, "single")
        and not math.isnan(one.iou)
    ]
    ordered = sorted(own, key=lambda one: -one.iou)
    middle = max(0, len(ordered) // 2 - each // 2)
    rows = [ordered[:each], ordered[middle : middle + each], ordered[-each:]]
    sheet = np.full((_CELL_PIXELS * len(rows), _CELL_PIXELS * each, 3), 32, np.uint8)
    for row, line in enumerate(rows):
        for column, finding in enumerate(line):
            cell = _cell(photos[finding.photo], segmenter, finding)
            top, left = row * _CELL_PIXELS, column * _CELL_PIXELS
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def _of_method(findings: Sequence[Finding]) -> dict[str, Any]:
    prompts = list(dict.fromkeys(prompt_name(one) for one in findings))
    named = {name: [one for one in findings if prompt_name(one) == name] for name in prompts}
    first = {start: named[start] for start in STARTS if start in named}
    figures: dict[str, Any] = {
        "instances": max(len(group) for group in named.values()),
        "miou": {name: _mean(one.iou for one in group) for name, group in named.items()},
        "by_size": {
            start: {size: _mean(one.iou for one in group if one.size == size) for size in SIZES}
            for start, group in first.items()
        },
        "boundary": {name: _mean(one.boundary for one in group) for name, group in named.items()},
    }
    known = {name: group for name, group in named.items() if any(not math.isnan(one.predicted) for one in group)}
    figures["calibration"] = {}
    for name, group in known.items():
        found = calibration([one.predicted for one in group], [one.iou for one in group])
        figures["calibration"][name] = {
            "error": found.error, "correlation": found.correlation, "bins": [list(one) for one in found.bins],
        }  # fmt: skip
    return figures


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _cell(photo: PhotoRecord, segmenter: Segmenter, finding: Finding) -> NDArray[np.uint8]:
    """The part of the photo around an object, with both outlines and the IoU."""
    record = photo.masks[finding.mask]
    one = instance(record, photo.size)
    logits = segmenter.answer(segmenter.embed(photo), first_prompts([one], "box"), 1).mask_logits[0, 0]
    image = photo.image().copy()
    x0, y0, x1, y1 = record.box
    margin = 0.3 * max(x1 - x0, y1 - y0) + 4
    left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    right, bottom = min(photo.size[1], int(x1 + margin)), min(photo.size[0], int(y1 + margin))
    scale = (_CELL_PIXELS - 8) / max(right - left, bottom - top)
    size = (max(1, int((right - left) * scale)), max(1, int((bottom - top) * scale)))
    cell = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for mask, colour in ((record.decode() > 0, _TRUTH), (to_photo(logits, photo.size), _ANSWER)):
        part = mask[top:bottom, left:right].astype(np.uint8)
        enlarged = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        outlines, _ = cv2.findContours(enlarged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(cell, outlines, -1, colour, 2)
    cv2.putText(cell, f"{finding.iou:.2f}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 2)
    cv2.putText(cell, f"{finding.iou:.2f}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
    return cell
