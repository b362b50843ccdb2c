"""Prompts while other clients find all objects of an image."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import httpx
from support.service_client import open_client, wait_for_in_flight
from tools.bench.connection import Connection
from tools.bench.samples import COLUMNS, Samples
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, megapixels

ROUTE = "/segment/everything"
# A grid that takes longer than the prompts beside it, with parameters by which no result is kept.
GRID = {"points_per_side": 64}
OTHERS = (0, 1, 3)


def measure(bench: Workbench) -> Section:
    """Measure prompts beside no, one and three everything requests, alternately."""
    size = bench.effort.medium
    connection = bench.connect(bench.service.url)
    image_hash = bench.embed(connection, size)
    click = click_request(image_hash, size)
    samples = {count: Samples() for count in OTHERS}
    with open_client(bench.service.url) as watcher:
        for _ in range(2 * bench.effort.upload_repeats):
            for count, own in samples.items():
                with _finding_all(bench.service.url, image_hash, count, watcher):
                    _click(connection, click, bench.effort.upload_s / 2, own)
    idle, one, three = samples.values()
    table = Table("", ["", *COLUMNS, "p50 ÷ idle p50"])
    for count, own in samples.items():
        name = "nobody else" if count == 0 else f"{count} everything requests" if count > 1 else "an everything request"
        table.rows.append([name, *own.cells(), own.p50 / idle.p50])
    return Section(
        "Clicks while others find all objects",
        f"""
            One client clicks again as soon as it is answered (one mask, run lengths, {megapixels(size)}). Others ask
            for all objects of the same image by {GRID["points_per_side"]} points a side.
            """,
        [table],
        {
            "everything_clicks.one_share": one.p50 / idle.p50,
            "everything_clicks.three_share": three.p50 / idle.p50,
        },
    )


@contextmanager
def _finding_all(url: str, image_hash: str, count: int, watcher: httpx.Client) -> Iterator[None]:
    """Keep everything requests in progress during the block, and disconnect their clients after it."""
    is_over = threading.Event()

    def find_all() -> None:
        body = {"image_hash": image_hash, **GRID}
        while not is_over.is_set():
            with (
                open_client(url) as client,
                client.stream(
                    "POST", ROUTE, content=json.dumps(body), headers={"Accept": "application/x-ndjson"}
                ) as response,
            ):
                response.raise_for_status()
                for _ in response.iter_lines():
                    if is_over.is_set():
                        break

    threads = [threading.Thread(target=find_all) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        wait_for_in_flight(watcher, ROUTE, count)
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        wait_for_in_flight(watcher, ROUTE, 0)


def _click(connection: Connection, click: bytes, seconds: float, samples: Samples) -> None:
    """Send prompts for a time. The first one is not measured."""
    connection.ask(click)
    ends_at = perf_counter() + seconds
    while (started := perf_counter()) < ends_at:
        connection.ask(click)
        samples.ms.append((perf_counter() - started) * 1000.0)
