"""Duration of uploads and their stages, by the size of the image."""

from tools.bench.samples import COLUMNS, interleaved, median
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, megapixels

STAGES = ("hash", "decode_image", "preprocess", "queue", "encode", "prepare")


def measure(bench: Workbench) -> Section:
    """Measure uploads of new JPEGs of three sizes by one client, without Redis."""
    connection = bench.connect(bench.service.url)

    def upload(size):
        return lambda: connection.post("/embed", bench.new_image(size), {"Content-Type": "image/jpeg"})

    samples = interleaved(
        {megapixels(size): upload(size) for size in bench.effort.sizes}, bench.effort.embeds, 1, warms=False
    )
    whole = Table("Uploads", ["JPEG", "file kB", *COLUMNS, "all but `encode`"])
    stages = Table("Median of each stage, ms (Server-Timing)", ["JPEG", *(f"`{stage}`" for stage in STAGES), "rest"])
    values = {}
    for size, (name, own) in zip(bench.effort.sizes, samples.items(), strict=True):
        timings = [answer.timings() for answer in own.answers]
        other = median([1 - timing["encode"] / ms for timing, ms in zip(timings, own.ms, strict=True)])
        whole.rows.append([name, len(bench.files[size]) // 1000, *own.cells(), f"{other:.1%}"])
        by_stage = [median([timing.get(stage, 0.0) for timing in timings]) for stage in STAGES]
        stages.rows.append([name, *by_stage, max(0.0, own.p50 - sum(by_stage))])
        place = ("small", "medium", "large")[bench.effort.sizes.index(size)]
        values |= {f"embed.{place}.p50_ms": own.p50, f"embed.{place}.all_but_encode": other}
    return Section(
        "Embedding an image",
        f"""
            JPEGs of quality 90 with the noise of a camera, {bench.cpus} threads. `encode` is the encoder's session and
            the rounding of its output. `rest` is HTTP and waiting between stages.
            """,
        [whole, stages],
        values,
    )
