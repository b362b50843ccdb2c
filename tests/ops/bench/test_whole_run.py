"""The bench goes on working: each section runs once, at a tiny size, and its report is whole."""

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
from tools.bench.plot import draw
from tools.bench.report import Document, markdown
from tools.bench.run import SECTIONS, run
from tools.bench.targets import TARGETS

# Sections that measure only what has been installed beside the service. Their notes name the command that installs it.
OPTIONAL = {"openvino": "make openvino-test", "osam": "make osam", "browser": "make browser-runtime"}


@pytest.fixture(scope="module")
def made() -> Document:
    before = children()

    document = run("tiny", list(SECTIONS))

    assert children() <= before, "the bench left processes behind"
    return document


def children() -> set[str]:
    """Return the ids of running child processes."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended meanwhile
            found.update((task / "children").read_text().split())
    return found


def numbers(part) -> list[float]:
    """Return every number of a document."""
    if isinstance(part, dict):
        return [number for value in part.values() for number in numbers(value)]
    if isinstance(part, list):
        return [number for value in part for number in numbers(value)]
    return [part] if isinstance(part, int | float) else []


def test_every_section_reports_finite_numbers(made: Document):
    sections = made["sections"]

    assert list(sections) == list(SECTIONS)
    for name, section in sections.items():
        assert all(len(row) == len(table["columns"]) for table in section["tables"] for row in table["rows"])
        if name in OPTIONAL and not section["values"]:
            assert OPTIONAL[name] in section["notes"]
        else:
            assert section["tables"]
            assert section["values"]
    assert all(math.isfinite(number) for number in numbers(made))


def test_every_target_has_a_measured_value(made: Document):
    assert [target["what"] for target in made["targets"]] == [target.what for target in TARGETS]
    for target in made["targets"]:
        is_optional = {value.split(".")[0] for value in target["values"]} <= OPTIONAL.keys()
        assert is_optional or isinstance(target["is_reached"], bool), target["what"]


def test_our_decoder_answers_as_the_official_graph_does(made: Document):
    assert made["values"]["graphs.difference"] < 1e-3


def test_no_request_of_the_load_fails(made: Document):
    closed = made["sections"]["load"]["tables"][0]

    assert sum(row[closed["columns"].index("failed")] or 0 for row in closed["rows"]) == 0


def test_the_report_names_what_a_figure_depends_on(made: Document):
    text = markdown(json.loads(json.dumps(made)), plot="bench.svg")

    for fact in ("cpu", "commit", "onnxruntime"):
        assert made["machine"][fact] in text
    assert f"{made['threads']} threads" in text
    assert made["precision"] in text
    for section in made["sections"].values():
        assert f"## {section['title']}\n" in text
    assert all(target["what"] in text for target in made["targets"])
    unmeasured = [target for target in made["targets"] if target["is_reached"] is None]
    assert text.count("| not measured |") == len(unmeasured)


def test_the_figure_has_every_bar_and_curve(made: Document):
    bars, throughput, latency = draw(made["values"], made["where"]).axes

    assert len(bars.patches) == 7
    assert len(throughput.lines) == 2
    assert len(latency.lines) == 2
