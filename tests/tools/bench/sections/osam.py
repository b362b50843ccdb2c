"""Our service compared with `osam serve`, where `make osam` has installed it."""

import base64
import json
from functools import partial

from tools.bench.connection import request
from tools.bench.disc import SHARE, disc_centre
from tools.bench.osam_process import PYTHON, make_osam_graphs, osam_process
from tools.bench.samples import COLUMNS, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, megapixels

ROUNDS = 6  # at most: a call takes seconds


def measure(bench: Workbench) -> Section:
    """Measure a click of one client with and without the embedding in the request."""
    section = Section("Comparison with osam", _NOTES)
    if not PYTHON.exists():
        section.notes += "\n\nosam is not installed. `make osam` installs it."
        return section
    size = bench.effort.medium
    connection = bench.connect(bench.service.url)
    own = click_request(bench.embed(connection, size), size, format="png")
    graphs = make_osam_graphs(bench.folder, bench.image)
    image = base64.b64encode(bench.files[size]).decode()
    prompt = {"points": [disc_centre(size)], "point_labels": [1]}
    with osam_process(*graphs, home=bench.folder / "osam") as server:
        osam = bench.connect(server.url)
        without = _request({"image": image, "prompt": prompt})
        first = osam.ask(without).json()  # loads the graphs
        _check(first["annotations"][0]["bounding_box"], size)
        sent = _request({"image_embedding": first["image_embedding"], "prompt": prompt})
        contenders = {
            "osam, embedding not sent": partial(osam.ask, without),
            "osam, embedding sent": partial(osam.ask, sent),
            "ours, PNG": partial(connection.ask, own),
        }
        samples = interleaved(contenders, min(ROUNDS, bench.effort.rounds), 1, warms=False)
    bodies = [len(without), len(sent), len(own)]
    ours = samples["ours, PNG"]
    table = Table(
        f"One client, {megapixels(size)}", ["server", *COLUMNS, "this ÷ ours, p50", "request kB", "answer kB"]
    )
    for (name, measured), asked in zip(samples.items(), bodies, strict=True):
        answered = len(measured.answers[0].body) / 1000
        table.rows.append([name, *measured.cells(), measured.p50 / ours.p50, asked / 1000, answered])
    section.tables.append(table)
    section.values |= {
        "osam.ratio_not_sent": samples["osam, embedding not sent"].p50 / ours.p50,
        "osam.ratio_sent": samples["osam, embedding sent"].p50 / ours.p50,
    }
    return section


_NOTES = """
    `osam serve` 0.8.1 keeps no embedding. A request without one encodes the image. Every answer has the embedding as a
    list of numbers in JSON, and a client may send it with the next click.

    osam's models are downloads that this run cannot reach, so it serves our network: the encoder in the official
    layout, and the decoder in the form of SAM that osam expects. osam's own encoders compute several times as much.
    So the row without the embedding is better than with osam's own models. Its server, model class and protocol
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
