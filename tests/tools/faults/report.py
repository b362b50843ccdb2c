"""Results as Markdown, and the generated part of docs/operations/reliability.md."""

from collections.abc import Sequence
from pathlib import Path

from tools.faults.outcome import COLUMNS, Outcome

BEGIN, END = "<!-- what follows is written by make faults -->", "<!-- what precedes is written by make faults -->"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a section for each experiment, with its table and facts."""
    return "\n".join(line for outcome in outcomes for line in _section(outcome))


def write_into(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Replace the sections of these experiments between the two marks. Other sections stay."""
    before, rest = path.read_text().split(BEGIN)
    old, after = rest.split(END)
    sections = {text.partition("\n")[0]: text.rstrip() for text in old.split("### ")[1:]}
    for outcome in outcomes:
        title, _, text = markdown([outcome]).removeprefix("### ").partition("\n")
        sections[title] = f"{title}\n\nMeasured by `make faults` on: {outcome.where}.\n{text.rstrip()}"
    written = "\n\n".join(f"### {section}" for section in sections.values())
    path.write_text(f"{before}{BEGIN}\n\n{written}\n\n{END}{after}")


def _section(outcome: Outcome) -> list[str]:
    lines = [f"### {outcome.name}", ""]
    if outcome.rows:
        lines += [_line(COLUMNS), _line(["---", "---", *["---:"] * (len(COLUMNS) - 2)])]
        lines += [_line(row.cells()) for row in outcome.rows]
        lines.append("")
    if outcome.facts:
        lines += [_line(["measured", ""]), _line(["---", "---"])]
        lines += [_line([what, figure]) for what, figure in outcome.facts.items()]
        lines.append("")
    kept = "Every promise was kept." if not outcome.broken else "Broken: " + "; ".join(outcome.broken) + "."
    return [*lines, kept, ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
