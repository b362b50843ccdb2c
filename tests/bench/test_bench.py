"""The bench goes on working: each section runs once, at a tiny size, and its report is whole."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bench.connection import request
from bench.load_generator import LoadGenerator
from bench.plot import figure
from bench.report import Document, markdown
from bench.run import SECTIONS, run
from bench.targets import TARGETS
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from support.app_server import AppServer

STALL_S = 0.4


@pytest.fixture(scope="module")
def made() -> Document:
    before = children()

    document = run("tiny", list(SECTIONS))

    assert children() <= before, "the bench left processes behind"
    return document


def children() -> set[str]:
    """Processes that this one has started and that run."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found.update((task / "children").read_text().split())
    return found


def numbers(part) -> list[float]:
    """Every number of a document."""
    if isinstance(part, dict):
        return [number for value in part.values() for number in numbers(value)]
    if isinstance(part, list):
        return [number for value in part for number in numbers(value)]
    return [part] if isinstance(part, int | float) else []


@pytest.mark.slow
def test_every_section_reports_finite_numbers(made: Document):
    sections = made["sections"]

    assert list(sections) == list(SECTIONS)
    for section in sections.values():
        assert section["tables"]
        assert all(len(row) == len(table["columns"]) for table in section["tables"] for row in table["rows"])
        assert section["values"]
    assert all(math.isfinite(number) for number in numbers(made))


@pytest.mark.slow
def test_every_target_has_a_measured_value(made: Document):
    assert [target["what"] for target in made["targets"]] == [target.what for target in TARGETS]
    assert all(isinstance(target["is_reached"], bool) for target in made["targets"])


@pytest.mark.slow
def test_our_decoder_answers_as_the_official_graph_does(made: Document):
    assert made["values"]["graphs.difference"] < 1e-3


@pytest.mark.slow
def test_no_request_of_the_load_fails(made: Document):
    closed, _ = made["sections"]["load"]["tables"]

    assert sum(row[closed["columns"].index("failed")] or 0 for row in closed["rows"]) == 0


@pytest.mark.slow
def test_the_report_names_what_a_figure_depends_on(made: Document):
    text = markdown(json.loads(json.dumps(made)), plot="bench.svg")

    for fact in ("cpu", "commit", "onnxruntime"):
        assert made["machine"][fact] in text
    assert f"{made['threads']} threads" in text
    assert made["precision"] in text
    for section in made["sections"].values():
        assert f"## {section['title']}\n" in text
    assert all(target["what"] in text for target in made["targets"])
    assert "| not measured |" not in text


@pytest.mark.slow
def test_the_figure_is_svg_with_every_bar_and_curve(made: Document):
    root = ET.fromstring(figure(made["values"], made["where"]))

    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert tags.count("rect") == 7
    assert tags.count("polyline") == 4
    width, height = (float(root.get(side)) for side in ("width", "height"))
    assert all(0 <= float(line.get("x", 0)) <= width for line in root.iter())
    assert height > 300


def test_a_figure_of_few_sections_leaves_the_rest_out():
    root = ET.fromstring(figure({"graphs.official_all_ms": 40.0, "graphs.served_all_ms": 10.0}, "here & now"))

    assert sum(element.tag.endswith("rect") for element in root.iter()) == 2


def test_a_target_without_a_measurement_is_neither_reached_nor_missed():
    row = TARGETS[0].judge({})

    assert row["measured"] is None
    assert row["is_reached"] is None


def test_the_worst_of_several_values_counts():
    at_least = next(target for target in TARGETS if target.is_least and len(target.values) == 2)

    row = at_least.judge(dict(zip(at_least.values, (at_least.bound + 1, at_least.bound - 1), strict=True)))

    assert row["is_reached"] is False


def test_an_open_loop_charges_a_stall_to_everybody_who_came_meanwhile():
    answered = []

    async def answer(_):
        answered.append(1)
        if len(answered) == 1:
            time.sleep(STALL_S)  # noqa: ASYNC251 - the server stands still, with everybody in it
        return Response("x")

    with AppServer(Starlette(routes=[Route("/", answer)])) as server, LoadGenerator() as generator:
        load = generator.open(server.url, [request("GET", "/")], rate=50, seconds=0.2)

    # All of those 0.2 s, and the 0.05 s before them that are not counted, lie inside the stall.
    assert load.failed == load.refused == 0
    assert 9 <= len(load.samples.ms) <= 10
    assert min(load.samples.ms) > 1000 * (STALL_S - 0.25)


def test_a_closed_loop_counts_refusals_and_never_as_answers():
    async def refuse(_):
        return Response("busy", status_code=503)

    with AppServer(Starlette(routes=[Route("/", refuse, methods=["POST"])])) as server, LoadGenerator() as generator:
        data = request("POST", "/", b"0" * 16)
        generator.start_endless(server.url, data, vary_at=len(data) - 16, seconds=0.1)
        load = generator.wait()

    assert load.refused > 0
    assert load.samples.ms == []
    assert load.per_s == 0
