"""Our service compared with a typical server."""

import json
from functools import partial

from tools.bench.connection import request
from tools.bench.disc import disc_centre
from tools.bench.load_generator import Load
from tools.bench.samples import COLUMNS, Samples, interleaved, median
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, commented, megapixels

from service.sam.transforms import Size

CLIENTS = 16


def measure(bench: Workbench) -> Section:
    """Measure the same prompt on the same images, by one client and by sixteen clients."""
    sizes = {"medium": bench.effort.medium, "large": bench.effort.large}
    connection, peer = bench.connect(bench.service.url), bench.connect(bench.peer.url)
    requests, contenders = {}, {}
    for place, size in sizes.items():
        image_hash = bench.embed(connection, size)
        requests["peer", place] = _peer_request(bench, size)
        requests["png", place] = click_request(image_hash, size, format="png")
        requests["rle", place] = click_request(image_hash, size)
        for kind in ("peer", "png", "rle"):
            client = peer if kind == "peer" else connection
            contenders[kind, place] = partial(client.ask, requests[kind, place])
    samples = interleaved(contenders, bench.effort.rounds, bench.effort.calls)
    loads: dict[str, list[Load]] = {"peer": [], "png": []}
    for _ in range(bench.effort.load_repeats):
        for kind, runs in loads.items():
            url = bench.peer.url if kind == "peer" else bench.service.url
            runs.append(
                bench.generator.closed(url, [requests[kind, "medium"]], clients=CLIENTS, seconds=bench.effort.load_s)
            )
    ratio = {place: samples["peer", place].p50 / samples["png", place].p50 for place in sizes}
    per_s = {kind: median([run.per_s for run in runs]) for kind, runs in loads.items()}
    return Section(
        "Comparison with a typical server",
        """
            The peer is a small FastAPI server with the official pair of graphs (`tests/tools/bench/peer_server.py`),
            built like typical EdgeSAM servers. It has one global predictor behind a lock and ONNX Runtime with default
            options. It enlarges all four masks to the image size in floating point and returns the best one as an
            8-bit PNG in base64. Its image is embedded in advance too. Our service answers with a 1-bit PNG in base64
            or with run lengths.
            """,
        [_one_client(samples, sizes), _many_clients(loads, megapixels(bench.effort.medium))],
        {
            "peer.medium_ms": samples["peer", "medium"].p50,
            "peer.large_ms": samples["peer", "large"].p50,
            "peer.ours_medium_ms": samples["png", "medium"].p50,
            "peer.ours_large_ms": samples["png", "large"].p50,
            "peer.ratio_medium": ratio["medium"],
            "peer.ratio_large": ratio["large"],
            "peer.per_s": per_s["peer"],
            "peer.ours_per_s": per_s["png"],
        },
    )


def _peer_request(bench: Workbench, size: Size) -> bytes:
    image_id = bench.peer.embed(commented(bench.files[size], b"0" * 16))
    body = {"image_id": image_id, "points": [disc_centre(size)], "labels": [1]}
    return request("POST", "/predict", json.dumps(body).encode())


_WHO = {"peer": "typical peer, PNG", "png": "ours, PNG", "rle": "ours, run lengths"}


def _one_client(samples: dict[tuple[str, str], Samples], sizes: dict[str, Size]) -> Table:
    table = Table("One client", ["image", "server", *COLUMNS, "peer ÷ this", "answer kB"])
    for (kind, place), own in samples.items():
        ratio = samples["peer", place].p50 / own.p50
        size = len(own.answers[0].body) / 1000
        table.rows.append([megapixels(sizes[place]), _WHO[kind], *own.cells(), ratio, size])
    return table


def _many_clients(loads: dict[str, list[Load]], image: str) -> Table:
    table = Table(
        f"{CLIENTS} clients, closed loop, one image of {image}",
        ["server", "clicks/s", "p50 ms", "p90 ms", "p99 ms", "failed", "this ÷ peer, clicks/s"],
    )
    reference = median([run.per_s for run in loads["peer"]])
    for kind, runs in loads.items():
        merged = Samples([ms for run in runs for ms in run.samples.ms])
        per_s = median([run.per_s for run in runs])
        failed = sum(run.failed + run.refused for run in runs)
        table.rows.append([_WHO[kind], per_s, *merged.cells()[1:], failed, per_s / reference])
    return table
