"""Prompts while another client uploads without a pause."""

from time import perf_counter

from support.service_client import open_client, wait_for_in_flight
from tools.bench.connection import Connection, request
from tools.bench.samples import COLUMNS, Samples
from tools.bench.section import Section, Table
from tools.bench.workbench import COMMENT_AT, Workbench, click_request, commented, megapixels

# Uploads last longer than the prompts, because the last upload is not complete when they end.
_MARGIN_S = 0.5


def measure(bench: Workbench) -> Section:
    """Measure prompts with and without uploads, alternately."""
    size = bench.effort.medium
    connection = bench.connect(bench.service.url)
    click = click_request(bench.embed(connection, size), size)
    jpeg = commented(bench.files[size], b"0" * 16)
    upload = request("POST", "/embed", jpeg, {"Content-Type": "image/jpeg"})
    vary_at = len(upload) - len(jpeg) + COMMENT_AT
    samples = {"nobody uploads": Samples(), "one client uploads": Samples()}
    uploads_per_s = []
    with open_client(bench.service.url) as watcher:
        for _ in range(bench.effort.upload_repeats):
            _click(connection, click, bench.effort.upload_s, samples["nobody uploads"])
            seconds = bench.effort.upload_s + _MARGIN_S
            bench.generator.start_endless(bench.service.url, upload, vary_at=vary_at, seconds=seconds)
            wait_for_in_flight(watcher, "/embed")
            _click(connection, click, bench.effort.upload_s, samples["one client uploads"])
            load = bench.generator.wait()
            if load.failed or not load.samples.ms:
                raise RuntimeError(f"{load.failed} uploads failed, {len(load.samples.ms)} succeeded")
            uploads_per_s.append(len(load.samples.ms) / seconds)
    idle, busy = samples.values()
    table = Table("", ["", *COLUMNS, "p50 ÷ idle p50", "p99 ÷ idle p99", "p99 ÷ idle p50"])
    table.rows += [
        [
            name,
            *own.cells(),
            own.p50 / idle.p50,
            own.percentile(99) / idle.percentile(99),
            own.percentile(99) / idle.p50,
        ]
        for name, own in samples.items()
    ]
    return Section(
        "Clicks while another client uploads",
        f"""
            One client clicks again as soon as it is answered (one mask, run lengths, {megapixels(size)}). Another
            uploads a new image of {megapixels(size)} as soon as the previous one is embedded, {
            sum(uploads_per_s) / len(uploads_per_s):.1f} per second.
            """,
        [table],
        {
            "uploads.idle_p50_ms": idle.p50,
            "uploads.busy_p50_ms": busy.p50,
            "uploads.p50_share": busy.p50 / idle.p50,
            "uploads.p99_share": busy.percentile(99) / idle.percentile(99),
        },
    )


def _click(connection: Connection, data: bytes, seconds: float, samples: Samples) -> None:
    """Send prompts for a time. The first one is not measured."""
    connection.ask(data)
    ends_at = perf_counter() + seconds
    while (started := perf_counter()) < ends_at:
        connection.ask(data)
        samples.ms.append((perf_counter() - started) * 1000.0)
