"""A prompt over HTTP by a single client, compared with the decoder call inside it."""

from functools import partial

from tools.bench.connection import Connection
from tools.bench.disc import disc_centre
from tools.bench.samples import COLUMNS, Samples, interleaved, median
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, check_disc, click_request, megapixels

ALONE = "decoder call alone"
STAGES = ("queue", "decode", "postprocess", "serialize", "total")
FORMATS = ("rle", "png", "polygon", "logits", "none")


def measure(bench: Workbench) -> Section:
    """Measure prompts on an image in memory in every format, and the decoder call alone."""
    medium, large = bench.effort.medium, bench.effort.large
    connection = bench.connect(bench.service.url)
    hashes = {size: bench.embed(connection, size) for size in (medium, large)}
    for size, image_hash in hashes.items():
        check_disc(connection, image_hash, size)
    in_large = {f"{name}, {megapixels(large)}": click_request(hashes[large], large, format=name) for name in FORMATS}
    in_large[f"PNG file, {megapixels(large)}"] = click_request(hashes[large], large, png_file=True)
    requests = {
        f"rle, {megapixels(medium)}": click_request(hashes[medium], medium),
        f"rle, {megapixels(medium)}, four masks": click_request(hashes[medium], medium, multimask=4),
        **in_large,
    }
    clicks = bench.clicks(bench.cpus)
    contenders = {ALONE: partial(clicks.decode, [disc_centre(medium)])}
    contenders |= {name: partial(Connection.ask, connection, data) for name, data in requests.items()}
    samples = interleaved(contenders, bench.effort.rounds, bench.effort.calls)
    alone = samples.pop(ALONE)
    over = {name: own.p50 - alone.p50 for name, own in samples.items()}
    times = Table(
        "Times", ["answer", *COLUMNS, "p50 beyond the decoder call, ms", "beyond its own `decode`, ms", "answer kB"]
    )
    times.rows.append([ALONE, *alone.cells(), None, None, None])
    times.rows += [
        [name, *own.cells(), over[name], _around(own), len(own.answers[0].body) / 1000] for name, own in samples.items()
    ]
    stages = Table(
        "Median of each stage, ms (Server-Timing)", ["answer", *(f"`{stage}`" for stage in STAGES), "outside"]
    )
    stages.rows += [_stages(name, own) for name, own in samples.items()]
    prepares = sum("prepare" in answer.timings() for own in samples.values() for answer in own.answers)
    return Section(
        "Click over HTTP, one client",
        f"""
            Connections are kept alive, the image is in memory, and one mask is requested unless the row says
            otherwise; {bench.cpus} threads. The object is a disc that covers a tenth of the image. `decode` is the
            decoder call as measured by the service. `outside` is the client, the kernel and the server's HTTP.

            `prepare` ran in {prepares} of the clicks.
            """,
        [times, stages],
        {
            "click.alone_ms": alone.p50,
            "click.medium_ms": samples[f"rle, {megapixels(medium)}"].p50,
            "click.medium_around_ms": _around(samples[f"rle, {megapixels(medium)}"]),
            "click.large_around_ms": max(_around(samples[name]) for name in in_large),
            "click.medium_over_ms": over[f"rle, {megapixels(medium)}"],
            "click.large_ms": samples[f"rle, {megapixels(large)}"].p50,
            "click.large_over_ms": max(over[name] for name in in_large),
            "click.prepares": float(prepares),
        },
    )


def _around(own: Samples) -> float:
    """Return the median time of a request without its decoder call, in ms. A difference of medians is less stable."""
    return median([ms - answer.timings()["decode"] for ms, answer in zip(own.ms, own.answers, strict=True)])


def _stages(name: str, own: Samples) -> list:
    timings = [answer.timings() for answer in own.answers]
    by_stage = [median([timing.get(stage, 0.0) for timing in timings]) for stage in STAGES]
    return [name, *by_stage, own.p50 - by_stage[-1]]
