"""The table of `list`: one line of figures for each model and one of words, readable at 80 columns."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

from model_store import terminal
from model_store.catalogue.entries import CatalogEntry
from model_store.catalogue.published_model import COCO_AP, COCO_BOX_MIOU, SA_23_ONE_CLICK, Quality
from model_store.program import program, store_command

_HEADER: Final = ("model", "size", "commercial use", "quality", "encode", "click")
_GAP: Final = "  "
_MEASURED_BOX_MIOU: Final = "miou_box"  # in manifests, 0..1
# Short name and factor of each measure. Figures of different measures cannot be compared, so the table names them.
_MEASURES: Final[Mapping[str, tuple[str, float]]] = {
    COCO_AP: ("AP", 1.0),
    COCO_BOX_MIOU: ("box", 1.0),
    _MEASURED_BOX_MIOU: ("box", 100.0),
    SA_23_ONE_CLICK: ("click", 1.0),
}
_COPIED_HASH: Final = " *"
_MEGABYTE: Final = 1e6
_GIGABYTE: Final = 1e9


@dataclass(frozen=True, slots=True)
class _Row:
    """One model: the cells of its line, and the words below."""

    entry: CatalogEntry
    cells: tuple[str, ...]


def print_catalog(entries: Sequence[CatalogEntry]) -> None:
    """Print installed models, then those that can be fetched, then sources and conditions of the figures."""
    console = terminal.stdout()
    sources: list[str] = []
    rows = [_Row(entry, _cells(entry, sources)) for entry in entries]
    widths = [
        max(len(line[column]) for line in (_HEADER, *(row.cells for row in rows))) for column in range(len(_HEADER))
    ]
    longest_command = max(len(entry.command) for entry in entries)
    is_wide = console.width >= sum(widths) + len(_GAP) * len(widths) + longest_command
    console.print(Text(_line(_HEADER, widths), style="bold"))
    for is_here, titles in ((True, ["Installed"]), (False, _absent_titles())):
        group = [row for row in rows if row.entry.is_here == is_here]
        if not group:
            continue
        console.print()
        for title in titles:
            console.print(Text(title, style="bold"))
        for row in group:
            command = row.entry.command if is_wide else ""
            console.print(Text(_line(row.cells, widths) + (_GAP + command if command else "")), soft_wrap=True)
            for words, style in _words(row.entry, is_wide=is_wide):
                _print_wrapped(console, words, style, indent="  ")
    console.print()
    for footnote in _footnotes(entries, sources):
        _print_wrapped(console, footnote, "dim")


def _print_wrapped(console: Console, words: str, style: str, indent: str = "") -> None:
    """Print words in as many lines as they need. Rich's own wrapping fills lines with spaces, which a copy contains."""
    lines = textwrap.wrap(
        words, console.width, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)


def _absent_titles() -> list[str]:
    """Return the lines above the models that can be fetched, with the commands that do it."""
    get = f"Not here yet. Get one: {store_command()} fetch NAME"
    serve = "" if program() is None else f"Get and serve one: {program()} serve --model NAME"
    return [title for title in (get, serve) if title]


def _cells(entry: CatalogEntry, sources: list[str]) -> tuple[str, ...]:
    """Return the cells of a line. New sources of figures are appended to `sources`."""
    timings = entry.timings
    return (
        entry.name + (_COPIED_HASH if entry.is_hash_copied else ""),
        ("" if entry.is_size_exact else "~") + _size(entry.size_bytes),
        _use(entry),
        _figure(entry.quality, sources),
        "-" if timings is None else _seconds(timings.encode_s),
        "-" if timings is None else f"{timings.click_s * 1e3:.0f} ms",
    )


def _use(entry: CatalogEntry) -> str:
    allowed = {True: "yes", False: "no", None: "see info"}[entry.commercial_use]
    return f"{allowed}, {entry.licence_label}" if entry.licence_label else allowed


def _figure(quality: Sequence[Quality], sources: list[str]) -> str:
    """Return the first figure of a known measure in percent, with the names of the measure and of its source."""
    figure = next((figure for figure in quality if figure.measure in _MEASURES), None)
    if figure is None:
        return "-"
    if figure.source not in sources:
        sources.append(figure.source)
    name, factor = _MEASURES[figure.measure]
    return f"{name} {figure.value * factor:.1f} {_letter(sources.index(figure.source))}"


def _letter(number: int) -> str:
    return chr(ord("a") + number)


def _size(size_bytes: int) -> str:
    if size_bytes >= _GIGABYTE:
        return f"{size_bytes / _GIGABYTE:.1f} GB"
    return f"{size_bytes / _MEGABYTE:.0f} MB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _words(entry: CatalogEntry, *, is_wide: bool) -> list[tuple[str, str]]:
    """Return the lines below a model with their styles."""
    words = [(entry.purpose, "red" if entry.state == "broken" else "dim")]
    if entry.state == "downloaded":
        words.append(("The checkpoint is downloaded; the same command converts it.", "dim"))
    if entry.is_hash_needed and not is_wide:
        words.append((f"No SHA-256 is published: {entry.command}", "dim"))
    if entry.trained is False:
        words.append(("Not trained: its masks mean nothing.", "yellow"))
    if entry.warning:
        words.append((f"Slow: {entry.warning}.", "yellow"))
    return words


def _footnotes(entries: Sequence[CatalogEntry], sources: Sequence[str]) -> list[str]:
    """Return the lines that say what the figures mean and where they come from."""
    notes = [
        "AP: COCO AP for boxes of a detector. box: mIoU for annotated boxes. click: mIoU for one click, SA-23.",
        "All in %, not measured again here. Figures of different measures or sources cannot be compared.",
    ]
    if sources:
        notes.append("Sources: " + "; ".join(f"{_letter(number)} {source}" for number, source in enumerate(sources)))
    if any(entry.is_hash_copied for entry in entries):
        notes.append("* The SHA-256 is that of copies by others. The authors publish none.")
    timings = next((entry.timings for entry in entries if entry.timings is not None), None)
    if timings is None:
        notes.append("encode, click: measured here when a model is fetched or imported.")
    else:
        notes.append(f"encode, click: one image and one point on this machine, {timings.processor}.")
    return notes
