"""The results of a run as a JSON document, and that document as Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tools.bench.machine import Machine
from tools.bench.section import Section
from tools.bench.targets import TARGETS

Document = dict[str, Any]

_COMMANDS = {"full": "make bench", "quick": "make bench-quick"}


def document(
    machine: Machine, sections: Mapping[str, Section], *, effort: str, model: Mapping[str, Any], seconds: float
) -> Document:
    """Return all results of a run.

    Args:
        machine: Machine of the run.
        sections: Results of the sections by name.
        effort: Name of the effort.
        model: Description of the model by our service.
        seconds: Duration of the run.

    Raises:
        ValueError: A value is not a finite number.
    """
    values = {name: value for section in sections.values() for name, value in section.values.items()}
    made = {
        "machine": asdict(machine),
        "where": machine.sentence(),
        "effort": effort,
        "provider": model["provider"],
        "threads": model["threads"],
        "precision": model["precision"],
        "decoder": model["decoder"],
        "seconds": round(seconds),
        "targets": [target.judge(values) for target in TARGETS],
        "values": values,
        "sections": {name: asdict(section) for name, section in sections.items()},
    }
    json.dumps(made, allow_nan=False)
    return made


def markdown(made: Document, *, plot: str | None = None, others: Sequence[Document] = ()) -> str:
    """Return the results as Markdown.

    Args:
        made: Results of this run.
        plot: Address of the figure.
        others: Results of runs with other providers or on other machines. Each gets one row.
    """
    command = _COMMANDS.get(made["effort"], "python tests/tools/bench")
    lines = [
        "# Benchmarks",
        "",
        *paragraphs(f"""
            This page compares the cost of a click and of an upload with targets, with the official graphs, with a
            typical server and with osam.

            Written by `{command}` in {made["seconds"] / 60:.0f} minutes: {made["where"]}; sessions of
            {made["threads"]} threads unless a row says otherwise, provider {made["provider"]}, decoder
            {made["decoder"]}, {made["precision"]}.

            The alternatives of a table were measured alternately in one run, so ratios are more reliable than times.
            A `+` after the commit means that the working tree had changes. The masks come from an EdgeSAM network
            whose last layers are fitted to an image of a disc. The disc covers a tenth of the frame, and the network
            computes as much as any EdgeSAM.
        """),
        "## Targets",
        "",
        "| what | target | measured | |",
        "|---|---:|---:|---|",
        *[_target_row(target) for target in made["targets"]],
        "",
    ]
    if plot is not None:
        lines += [f"![Bar chart of click times, and curves of throughput and latency]({plot})", ""]
    lines += ["## Other providers", "", *paragraphs(_OTHERS), *table(_providers([made, *others]))]
    for section in made["sections"].values():
        lines += [f"## {section['title']}", ""]
        lines += paragraphs(section["notes"])
        for each in section["tables"]:
            lines += table(each)
    return "\n".join(lines).rstrip() + "\n"


_OTHERS = """
    Each row is a separate run. Compare within a row, not between rows. Encoding and click times are for one image of
    2 MP. Clicks per second are for the given number of clients in a closed loop.
"""
_CLIENTS = (1, 4, 16, 64)


def _providers(runs: Sequence[Document]) -> dict[str, Any]:
    columns = [
        "provider",
        "decoder",
        "precision",
        "where",
        "encode ms",
        "click ms",
        *(f"clicks/s, {n} clients" for n in _CLIENTS),
    ]
    names = ["graphs.encoder_all_ms", "click.medium_ms", *(f"load.per_s.{n}" for n in _CLIENTS)]
    rows = []
    for run in runs:
        machine = run["machine"]
        where = f"{machine['gpu'] or machine['cpu']}, {machine['cpus']} CPUs, commit {machine['commit']}"
        rows.append(
            [run["provider"], run["decoder"], run["precision"], where, *(run["values"].get(name) for name in names)]
        )
    if not any("cuda" in run["provider"] or "tensorrt" in run["provider"] for run in runs):
        rows.append(["cuda", "", "", "not measured yet", *[None] * len(names)])
    return {"title": "", "columns": columns, "rows": rows}


def paragraphs(text: str) -> list[str]:
    """Return each paragraph as one line, followed by an empty line."""
    return [line for part in text.split("\n\n") for line in (" ".join(part.split()), "")]


def _target_row(target: Mapping[str, Any]) -> str:
    sign, unit = "≥" if target["is_least"] else "≤", f" {target['unit']}" if target["unit"] else ""
    bound = f"{sign} {target['bound']:g}{unit}"
    if target["measured"] is None:
        return f"| {target['what']} | {bound} | not measured | |"
    verdict = "reached" if target["is_reached"] else "**not reached**"
    return f"| {target['what']} | {bound} | {number(target['measured'])}{unit} | {verdict} |"


def table(content: Mapping[str, Any]) -> list[str]:
    """Return a table with title, columns and rows as lines of Markdown, followed by an empty line."""
    lines = [f"**{content['title']}**", ""] if content["title"] else []
    is_text = [any(isinstance(row[i], str) for row in content["rows"]) for i in range(len(content["columns"]))]
    lines.append("| " + " | ".join(content["columns"]) + " |")
    lines.append("|" + "|".join("---" if i == 0 or text else "---:" for i, text in enumerate(is_text)) + "|")
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in content["rows"]]
    return [*lines, ""]


def _cell(cell: str | float | None) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else number(cell)


def number(value: float) -> str:
    """Return a value with three significant digits, without an exponent unless it is tiny."""
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, min(3, 2 - math.floor(math.log10(abs(value)))))}f}"
