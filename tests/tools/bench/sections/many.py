"""Many prompts: one request for all compared with one request each, over HTTP and as decoder calls."""

import json
from functools import partial

from tools.bench.connection import Connection, request
from tools.bench.samples import COLUMNS, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, megapixels, spread_points


def measure(bench: Workbench) -> Section:
    """Measure the same prompts on one image, together and one after the other."""
    size, count = bench.effort.medium, bench.effort.many_prompts
    points = spread_points(size, count)
    connection = bench.connect(bench.service.url)
    image_hash = bench.embed(connection, size)
    prompts = [{"points": [{"x": x, "y": y, "label": 1}]} for x, y in points]
    body = json.dumps({"image_hash": image_hash, "multimask": 1, "prompts": prompts}).encode()
    together = request("POST", "/segment", body)
    single = [click_request(image_hash, size, prompts=[prompt]) for prompt in prompts]
    contenders = {
        ("HTTP", bench.cpus, "one request"): partial(connection.ask, together),
        ("HTTP", bench.cpus, "a request each"): partial(_one_by_one, connection, single),
    }
    for threads in bench.thread_counts:
        clicks = bench.clicks(threads)
        contenders["decoder", threads, "one call"] = partial(clicks.decode, points)
        contenders["decoder", threads, "a call each"] = lambda clicks=clicks: [clicks.decode([one]) for one in points]
    samples = interleaved(contenders, bench.effort.many_rounds, 1)
    table = Table("", ["", "threads", "how", *COLUMNS, "p50 ms a prompt", "÷ one by one"])
    ratios = {}
    for (what, threads, how), own in samples.items():
        reference = samples[what, threads, "a request each" if what == "HTTP" else "a call each"].p50
        ratios[what, threads, how] = own.p50 / reference
        table.rows.append([what, threads, how, *own.cells(), own.p50 / count, own.p50 / reference])
    return Section(
        f"{count} prompts on one image",
        f"""
            One point per prompt, one mask each, run lengths, {megapixels(size)}. The times are for all {count}
            prompts. The service decodes at most `EDGESAM_MAX_DECODE_BATCH` prompts in one call.
            """,
        [table],
        {
            "many.ratio": ratios["HTTP", bench.cpus, "one request"],
            "many.decoder_ratio_all": ratios["decoder", bench.cpus, "one call"],
            "many.decoder_ratio_one": ratios["decoder", 1, "one call"],
        },
    )


def _one_by_one(connection: Connection, requests: list[bytes]) -> None:
    for data in requests:
        connection.ask(data)
