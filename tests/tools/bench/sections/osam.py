"""Our service compared with `osam serve`, where `make osam` has installed it."""

import base64
import json
from contextlib import ExitStack
from functools import partial

from tools.bench.connection import Connection, request
from tools.bench.disc import SHARE, disc_centre
from tools.bench.osam_process import PYTHON, make_osam_graphs, osam_process
from tools.bench.samples import COLUMNS, Samples, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, megapixels

OURS, NOT_SENT, SENT = "ours, PNG", "osam, embedding not sent", "osam, embedding sent"
MOST_ROUNDS = 6  # a call of osam takes seconds


def measure(bench: Workbench) -> Section:
    """Measure a click of one client, with osam with and without the embedding in the request."""
    size = bench.effort.medium
    connection = bench.connect(bench.service.url)
    requests = {OURS: click_request(bench.embed(connection, size), size, format="png")}
    contenders = {OURS: partial(connection.ask, requests[OURS])}
    notes = _NOTES
    with ExitStack() as stack:
        if PYTHON.exists():
            server = stack.enter_context(
                osam_process(*make_osam_graphs(bench.folder, bench.image), home=bench.folder / "osam")
            )
            osam = bench.connect(server.url)
            for name, asked in zip((NOT_SENT, SENT), _requests(bench, osam), strict=True):
                requests[name], contenders[name] = asked, partial(osam.ask, asked)
        else:
            notes += "\n\nosam was not installed in this run. `make osam` installs it."
        samples = interleaved(contenders, min(MOST_ROUNDS, bench.effort.rounds), 1, warms=False)
    return Section("Comparison with osam", notes, [_table(samples, requests, megapixels(size))], _values(samples))


def _requests(bench: Workbench, osam: Connection) -> tuple[bytes, bytes]:
    """Return a click without the embedding and one with it. The first one's answer has the embedding."""
    size = bench.effort.medium
    prompt = {"points": [disc_centre(size)], "point_labels": [1]}
    not_sent = _request({"image": base64.b64encode(bench.files[size]).decode(), "prompt": prompt})
    answer = osam.ask(not_sent).json()
    _check(answer["annotations"][0]["bounding_box"], size)
    return not_sent, _request({"image_embedding": answer["image_embedding"], "prompt": prompt})


def _table(samples: dict[str, Samples], requests: dict[str, bytes], image: str) -> Table:
    table = Table(f"One client, {image}", ["server", *COLUMNS, "this ÷ ours, p50", "request kB", "answer kB"])
    for name in (NOT_SENT, SENT, OURS):
        if (own := samples.get(name)) is None:
            table.rows.append([name, *[None] * (len(table.columns) - 1)])
            continue
        sizes = [len(requests[name]) / 1000, len(own.answers[0].body) / 1000]
        table.rows.append([name, *own.cells(), own.p50 / samples[OURS].p50, *sizes])
    return table


def _values(samples: dict[str, Samples]) -> dict[str, float]:
    names = {NOT_SENT: "osam.not_sent_ms", SENT: "osam.sent_ms", OURS: "osam.ours_ms"}
    return {names[name]: own.p50 for name, own in samples.items()}


_NOTES = """
    `osam serve` 0.8.1 keeps no embedding. A request without one encodes the image. Every answer has the embedding as a
    list of numbers in JSON, and a client may send it with the next click.

    osam's own models are downloads, and this run downloads nothing. So osam serves our network: the encoder in the
    official layout, and the decoder in the form of SAM that osam expects. It reads osam's `has_mask_input` of -1 as
    "no mask". The encoders of SAM compute several times as much as EdgeSAM's. Server, model class and protocol of osam
    are unchanged. osam answers with an 8-bit PNG of the cropped mask in base64, ours with a 1-bit PNG.
    """


def _request(body: dict) -> bytes:
    return request("POST", "/api/generate", json.dumps({"model": "bench", **body}).encode())


def _check(box: dict[str, int], size: tuple[int, int]) -> None:
    """Check that the mask is about the disc, whose box is a quarter larger than the disc.

    Raises:
        RuntimeError: The box has another area.
    """
    area = (box["xmax"] - box["xmin"] + 1) * (box["ymax"] - box["ymin"] + 1)
    share = area / (size[0] * size[1])
    if not 0.7 * SHARE < share < 1.8 * SHARE:
        raise RuntimeError(f"osam's mask has a box of {share:.1%} of the image; the disc has {SHARE:.0%}")
