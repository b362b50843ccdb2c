"""Parts of the benchmark. `make ops-test` tests a whole run."""

import time
from xml.etree import ElementTree as ET

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from support.app_server import AppServer
from tools.bench.connection import request
from tools.bench.load_generator import LoadGenerator
from tools.bench.plot import as_svg, draw
from tools.bench.tail import ideal_queue, tail_table
from tools.bench.targets import TARGETS

STALL_S = 0.4


def test_a_figure_of_few_sections_omits_the_others():
    drawing = draw({"graphs.official_all_ms": 40.0, "graphs.served_all_ms": 10.0}, "here & now")

    (axes,) = drawing.axes
    assert [bar.get_width() for bar in axes.patches] == [40.0, 10.0]
    assert ET.fromstring(as_svg(drawing)).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_target_without_a_measurement_is_neither_reached_nor_missed():
    row = TARGETS[0].judge({})

    assert row["measured"] is None
    assert row["is_reached"] is None


def test_the_worst_of_several_values_counts():
    at_least = next(target for target in TARGETS if target.is_least and len(target.values) == 2)

    row = at_least.judge(dict(zip(at_least.values, (at_least.bound + 1, at_least.bound - 1), strict=True)))

    assert row["is_reached"] is False


def test_an_open_loop_charges_a_stall_to_all_requests_that_were_due_meanwhile():
    answered = []

    async def answer(_):
        answered.append(1)
        if len(answered) == 1:
            time.sleep(STALL_S)  # noqa: ASYNC251 - blocks the server
        return Response("x")

    with AppServer(Starlette(routes=[Route("/", answer)])) as server, LoadGenerator() as generator:
        load = generator.open(server.url, [request("GET", "/")], rate=50, seconds=0.2)

    # The measured 0.2 s, and the 0.05 s before them, are inside the stall.
    assert load.failed == load.refused == 0
    assert 9 <= len(load.samples.ms) <= 10
    assert min(load.samples.ms) > 1000 * (STALL_S - 0.25)


def test_a_closed_loop_does_not_count_refusals_as_answers():
    async def refuse(_):
        return Response("busy", status_code=503)

    with AppServer(Starlette(routes=[Route("/", refuse, methods=["POST"])])) as server, LoadGenerator() as generator:
        data = request("POST", "/", b"0" * 16)
        generator.start_endless(server.url, data, vary_at=len(data) - 16, seconds=0.1)
        load = generator.wait()

    assert load.refused > 0
    assert load.samples.ms == []
    assert load.per_s == 0


def test_a_traced_open_loop_has_the_timings_of_each_response():
    async def answer(_):
        header = "queue;dur=4.0, decode;dur=3.0, postprocess;dur=0.5, serialize;dur=0.25, total;dur=8.0"
        return Response("x", headers={"Server-Timing": header})

    with AppServer(Starlette(routes=[Route("/", answer)])) as server, LoadGenerator() as generator:
        load = generator.open(server.url, [request("GET", "/")], rate=50, seconds=0.2, seed=1)

    assert len(load.trace) == len(load.samples.ms)
    all_, slowest = tail_table([load]).rows
    assert all_[:2] == ["all", len(load.samples.ms)]
    assert slowest[:2] == ["slowest 1 %", 3]
    assert all_[3:8] == slowest[3:8] == [4.0, 3.0, 0.5, 0.25, 0.25]


def test_the_ideal_queue_waits_as_theory_says():
    one = ideal_queue(50, 2000, [1], per_s=100, servers=1)

    # Pollaczek and Khinchine: at half of the capacity, the mean wait is half of the 10 ms of a request.
    assert sum(one.ms) / len(one.ms) == pytest.approx(15.0, rel=0.03)
    assert min(one.ms) == pytest.approx(10.0)
    assert min(ideal_queue(50, 10, [1], per_s=100, servers=2).ms) == pytest.approx(20.0)
