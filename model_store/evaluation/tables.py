"""Tables of figures, for the terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIRST_PROMPTS = ("box", "point", "auto")
_NOTHING = "–"
_STABILITY = "point (stability of 4)"

Figures = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title; every row is as long as the header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the title as a heading and the table below, in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"## {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(figures: Figures) -> list[Table]:
    """Return all tables of a summary, see `summary.summary`; empty tables are left out.

    `point (stability of 4)` is shown only where it differs from `auto`. With EdgeSAM's ranking rule they are equal.
    """
    prompts = _prompts(figures)
    candidates = (
        _mean_iou(figures, prompts),
        _right_masks(figures),
        _by_group(figures, prompts, "size"),
        _by_group(figures, prompts, "source"),
        _outlines_and_scores(figures),
    )
    return [table for table in candidates if table.rows and len(table.header) > 1]


def _prompts(figures: Figures) -> list[str]:
    prompts = list(dict.fromkeys(name for figure in figures.values() for name in figure["miou"]))
    # `auto` is measured before the corrections, but shown after them.
    ordered = [name for name in prompts if " of 4" not in name and name != "auto"]
    ordered += [name for name in prompts if name not in ordered]
    if all(_same_masks(figure) for figure in figures.values()):
        ordered = [name for name in ordered if name != _STABILITY]
    return ordered


def _same_masks(figure: Mapping[str, Any]) -> bool:
    return all(figure[kind].get("auto") == figure[kind].get(_STABILITY) for kind in ("miou", "boundary", "pieces"))


def _mean_iou(figures: Figures, prompts: Sequence[str]) -> Table:
    rows = [
        [method, str(figure["instances"]), *(_percent(figure["miou"].get(name)) for name in prompts)]
        for method, figure in figures.items()
    ]
    return Table("Mean IoU, %", ["method", "objects", *prompts], rows)


def _right_masks(figures: Figures) -> Table:
    """Return the shares of right masks, the pieces of a mask, and the shares of obeyed corrections."""
    prompts = _present(figures, "good", FIRST_PROMPTS)
    corrections = list(dict.fromkeys(name for figure in figures.values() for name in figure["obeyed"] if name != "all"))
    header = [
        "method",
        *(f"{name}, IoU ≥ 0.8" for name in prompts),
        *(f"{name}, pieces" for name in prompts),
        *(f"{name}, obeyed" for name in corrections),
    ]
    rows = [
        [
            method,
            *(_percent(figure["good"].get(name)) for name in prompts),
            *(_number(figure["pieces"].get(name)) for name in prompts),
            *(_percent(figure["obeyed"].get(name)) for name in corrections),
        ]
        for method, figure in figures.items()
    ]
    return Table("Right masks, %; pieces of a mask, median; corrections obeyed, %", header, rows)


def _by_group(figures: Figures, prompts: Sequence[str], kind: str) -> Table:
    """Return the main figures for each size or source, a row for each method; no rows if there is one group."""
    member = f"by_{kind}"
    of_four = _present(figures, "good", ("auto",))
    has_obeyed = any(figure["obeyed"] for figure in figures.values())
    header = [
        kind,
        "method",
        "objects",
        *prompts,
        *(f"{name}, {what}" for name in of_four for what in ("IoU ≥ 0.8", "pieces")),
        *(["obeyed"] if has_obeyed else []),
    ]
    groups = list(dict.fromkeys(group for figure in figures.values() for group in figure[member]))
    rows = [
        [
            group or "not stated",
            method,
            str(figure["instances"]),
            *(_percent(figure["miou"].get(name)) for name in prompts),
            *(cell for name in of_four for cell in _good_and_pieces(figure, name)),
            *([_percent(figure["obeyed"].get("all"))] if has_obeyed else []),
        ]
        for group in groups
        for method, figure in _with(figures, member, group)
    ]  # fmt: skip
    return Table(f"By {kind}: mean IoU, %, and more", header, rows if len(groups) > 1 else [])


def _good_and_pieces(figure: Mapping[str, Any], prompt: str) -> tuple[str, str]:
    return _percent(figure["good"].get(prompt)), _number(figure["pieces"].get(prompt))


def _with(figures: Figures, member: str, group: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for method, figure in figures.items():
        if group in figure[member]:
            yield method, figure[member][group]


def _outlines_and_scores(figures: Figures) -> Table:
    """Return the boundary IoU, and error and correlation of a model's own scores."""
    outlined = [name for name in _present(figures, "boundary", FIRST_PROMPTS) if _any(figures, "boundary", name)]
    predicted = _present(figures, "calibration", FIRST_PROMPTS[:2])
    scored = _present(figures, "score_calibration", ("auto",))
    columns = [
        *((f"{name}, predicted IoU", "calibration", name) for name in predicted),
        *((f"{name}, score", "score_calibration", name) for name in scored),
    ]
    header = [
        "method",
        *(f"{name}, outlines" for name in outlined),
        *(f"{title}: {what}" for title, _, _ in columns for what in ("error", "correlation")),
    ]
    rows = [
        [
            method,
            *(_percent(figure["boundary"].get(name)) for name in outlined),
            *(
                _hundredths(figure[member].get(name, {}).get(what))
                for _, member, name in columns
                for what in ("error", "correlation")
            ),
        ]
        for method, figure in figures.items()
    ]
    return Table("IoU of outlines, %; scores against the true IoU", header, rows)


def _present(figures: Figures, member: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if any(name in figure[member] for figure in figures.values())]


def _any(figures: Figures, member: str, name: str) -> bool:
    return any(figure[member].get(name) is not None for figure in figures.values())


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:g}"


def _hundredths(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"
