"""Duration of uploads and their stages, by the size of the image, and of the resize to the encoder's input."""

from tools.bench.connection import request
from tools.bench.samples import COLUMNS, Samples, interleaved, median
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, megapixels

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from service.native.resize import native_resizer
from service.sam.images import decode_image
from service.sam.resizing import PillowResizer
from service.sam.transforms import preprocess

STAGES = ("hash", "decode_image", "preprocess", "queue", "encode", "prepare")
SIZES = ("small", "medium", "large")


def measure(bench: Workbench) -> Section:
    """Measure uploads of new JPEGs of three sizes by one client, without Redis."""
    connection = bench.connect(bench.service.url)

    def upload(size):
        # Made before: copies of a large file would count as time of the upload.
        requests = iter(
            [
                request("POST", "/embed", bench.new_image(size), {"Content-Type": "image/jpeg"})
                for _ in range(bench.effort.embeds)
            ]
        )
        return lambda: connection.ask(next(requests))

    samples = interleaved(
        {megapixels(size): upload(size) for size in bench.effort.sizes}, bench.effort.embeds, 1, warms=False
    )
    whole = Table("Uploads", ["JPEG", "file kB", *COLUMNS, "all but `encode`", "the same, ms"])
    stages = Table("Median of each stage, ms (Server-Timing)", ["JPEG", *(f"`{stage}`" for stage in STAGES), "rest"])
    values = {}
    for size, place, (name, own) in zip(bench.effort.sizes, SIZES, samples.items(), strict=True):
        timings = [answer.timings() for answer in own.answers]
        other = [ms - timing["encode"] for timing, ms in zip(timings, own.ms, strict=True)]
        share = median([rest / ms for rest, ms in zip(other, own.ms, strict=True)])
        whole.rows.append([name, len(bench.files[size]) // 1000, *own.cells(), f"{share:.1%}", median(other)])
        by_stage = [median([timing.get(stage, 0.0) for timing in timings]) for stage in STAGES]
        stages.rows.append([name, *by_stage, max(0.0, own.p50 - sum(by_stage))])
        values |= {
            f"embed.{place}.p50_ms": own.p50,
            f"embed.{place}.all_but_encode": share,
            f"embed.{place}.all_but_encode_ms": median(other),
            f"embed.{place}.image_ms": median([timing["decode_image"] + timing["preprocess"] for timing in timings]),
        }
    resize, ratios = _resize(bench)
    return Section(
        "Embedding an image",
        f"""
            JPEGs of quality 90 with the noise of a camera, {bench.cpus} threads. `encode` is the encoder's session and
            the rounding of its output. `rest` is HTTP and waiting between stages. The resize has one thread and
            includes the normalisation. It is that of the image as it was decoded, at half the scale for 12 MP.
            """,
        [whole, stages, resize],
        values | ratios,
    )


def _resize(bench: Workbench) -> tuple[Table, dict[str, float]]:
    """Measure Pillow's resize and the one in C alternately. There are no ratios where no build of C runs."""
    table = Table("Resize to the encoder's input", ["JPEG", "resize", *COLUMNS, "Pillow ÷ this"])
    values = {}
    native = native_resizer()
    resizers = {"Pillow": PillowResizer(), **({} if native is None else {"ours": native})}
    for size, place in zip(bench.effort.sizes, SIZES, strict=True):
        samples: dict[str, Samples] = interleaved(
            {name: _preprocess(bench.files[size], resizer) for name, resizer in resizers.items()},
            bench.effort.rounds,
            bench.effort.calls,
        )
        for name, own in samples.items():
            ratio = samples["Pillow"].p50 / own.p50
            table.rows.append([megapixels(size), name, *own.cells(), ratio])
            if name == "ours":
                values[f"embed.{place}.resize_ratio"] = ratio
    return table, values


def _preprocess(jpeg, resizer):
    image = decode_image(jpeg, max_pixels=100_000_000)

    def run() -> None:  # the result is released at once
        preprocess(image.pixels, PIXEL_MEAN, PIXEL_STD, original_size=image.size, resizer=resizer)

    return run
