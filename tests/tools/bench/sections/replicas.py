"""The first prompt on a replica that did not embed the image: one Redis lookup and one `prepare`."""

from time import perf_counter, sleep

from tools.bench.samples import COLUMNS, Samples, median
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench, click_request, megapixels

_PAUSE_S = 0.1  # until the embedding replica has finished its background work
MEMORY, REDIS = "the image in memory", "the image in Redis"


def measure(bench: Workbench) -> Section:
    """Embed with one process, and send two prompts to another one, with a real Redis."""
    size = bench.effort.medium
    first, second = (bench.start_service(EDGESAM_REDIS_URL=bench.redis.url) for _ in range(2))
    embedder, clicker = bench.connect(first.url), bench.connect(second.url)
    samples = {MEMORY: Samples(), REDIS: Samples()}
    for _ in range(bench.effort.replica_images + 1):
        click = click_request(bench.embed(embedder, size), size)
        for name in (REDIS, MEMORY):
            sleep(_PAUSE_S)
            started = perf_counter()
            answer = clicker.ask(click)
            samples[name].ms.append((perf_counter() - started) * 1000.0)
            samples[name].answers.append(answer.timings())
    for own in samples.values():  # the first image opens connections
        del own.ms[0], own.answers[0]
    added = samples[REDIS].p50 - samples[MEMORY].p50
    stages = {stage: median([timing[stage] for timing in samples[REDIS].answers]) for stage in ("cache_get", "prepare")}
    table = Table("", ["click with", *COLUMNS, "added to p50, ms"])
    table.rows += [[name, *own.cells(), own.p50 - samples[MEMORY].p50] for name, own in samples.items()]
    return Section(
        "Click on another replica",
        f"""
            One replica embeds the image. Another answers two clicks on it ({megapixels(size)}, run lengths). Redis is
            on the same machine over TCP, with 2 MiB of float16 per image. Of the added time `cache_get` takes
            {stages["cache_get"]:.1f} ms and `prepare` {stages["prepare"]:.1f} ms (medians).
            """,
        [table],
        {
            "replicas.added_ms": added,
            "replicas.cache_get_ms": stages["cache_get"],
            "replicas.prepare_ms": stages["prepare"],
        },
    )
