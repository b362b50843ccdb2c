"""The generated part of docs/operations/capacity.md, between its two marks."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tools.capacity.experiment import Outcome, ServiceTimes, Setup
from tools.capacity.fleet import Costs, Fleet, Pod, Workload, plan
from tools.capacity.lru import Visit
from tools.capacity.sizes import ImageSizes

MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
USER_COUNTS = (100, 10_000, 1_000_000)
# A click every three seconds, eight clicks per image, twenty images per user, and a tenth of the visits to new images.
WORKLOAD = Workload(0, Visit(clicks=8, gap_s=3.0), images_each=20.0, exponent=0.8, new_share=0.1)
POD = Pod(cores=4, memory_tier_mib=4096, target_load=0.6)
KEPT_S = 3600.0
_BALANCING = {True: "by hash", False: "at random"}


def costs_of(times: ServiceTimes, sizes: ImageSizes, *, process_mib: float) -> Costs:
    """Return the costs of a fleet."""
    return Costs(
        click_cpu_s=times.memory_cpu_s,
        load_cpu_s=max(0.0, times.redis_cpu_s - times.memory_cpu_s),
        embed_cpu_s=times.embed_cpu_s,
        image_mib=sizes.memory_mib,
        redis_mib=sizes.redis_mib,
        click_kb=2.0,
        process_mib=process_mib,
    )


def tables_of(*, where: str, setup: Setup, times: ServiceTimes, outcomes: list[Outcome], costs: Costs) -> str:
    """Return the tables of the document as Markdown."""
    return "\n\n".join([where, _costs(times, costs), _checks(setup, outcomes), _fleets(costs)])


def write(path: Path, tables: str) -> None:
    """Write the tables between the marks of the document. The text around them stays.

    Args:
        path: File of the document.
        tables: Answer of `tables_of`.

    Raises:
        ValueError: The document does not have both marks.
    """
    before, _, rest = path.read_text().partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise ValueError(f"{path} needs the lines {MARKS[0]} and {MARKS[1]}")
    path.write_text(f"{before}{MARKS[0]}\n\n{tables}\n\n{MARKS[1]}{after}")


def _costs(times: ServiceTimes, costs: Costs) -> str:
    rows = [
        ("click, image in memory", f"{fmean(times.memory_ms):.1f} ms", f"{costs.click_cpu_s * 1000:.1f} ms"),
        ("additional, image in Redis", f"{fmean(times.redis_ms) - fmean(times.memory_ms):.1f} ms",
         f"{costs.load_cpu_s * 1000:.1f} ms"),
        ("embedding of a JPEG of 2 MP", "-", f"{costs.embed_cpu_s * 1000:.0f} ms"),
    ]  # fmt: skip
    return _table(["one thread a replica", "time, mean", "processor time of the service"], rows) + (
        f"\n\nAn image takes {costs.image_mib:.0f} MiB in a memory tier and {costs.redis_mib:.0f} MiB in Redis. "
        f"The process takes {costs.process_mib:.0f} MiB before the first image. "
        f"A click takes some {costs.click_kb:.0f} kB of network traffic."
    )


def _checks(setup: Setup, outcomes: list[Outcome]) -> str:
    head = (
        f"Experiment: {setup.replicas} replicas, {setup.images} images (Zipf, exponent {setup.exponent}) and "
        f"{setup.tier_images} images per memory tier. Visits have {setup.visit.clicks} clicks, one every "
        f"{setup.visit.gap_s:.0f} s. Load is {setup.clicks_per_s:.0f} clicks per second for {setup.seconds:.0f} s."
    )
    rows = [
        (
            _BALANCING[outcome.by_hash],
            str(outcome.clicks),
            str(outcome.failed),
            f"{outcome.predicted_hits:.3f}",
            f"{outcome.measured_hits:.3f}",
            f"{outcome.measured_hits / outcome.predicted_hits - 1:+.0%}",
            f"{outcome.predicted_ms:.1f}",
            f"{outcome.measured_ms:.1f}",
            f"{outcome.measured_ms / outcome.predicted_ms - 1:+.0%}",
            f"{outcome.measured_p50_ms:.1f} / {outcome.measured_p99_ms:.0f}",
        )
        for outcome in outcomes
    ]
    columns = ["balanced", "clicks", "failed", "hits predicted", "measured", "", "mean ms predicted", "measured", "",
               "p50 / p99 ms"]  # fmt: skip
    return f"{head}\n\n{_table(columns, rows)}"


def _fleets(costs: Costs) -> str:
    fleets = [
        (people, by_hash, plan(replace(WORKLOAD, clickers=people), costs, POD, by_hash=by_hash, kept_s=KEPT_S))
        for people in USER_COUNTS
        for by_hash in (True, False)
    ]
    head = (
        f"Assumptions: pods of {POD.cores} cores at a load of {POD.target_load:.0%}, with "
        f"{POD.memory_tier_mib / 1024:.0f} GiB of memory tier. Users click every {WORKLOAD.visit.gap_s:.0f} s and "
        f"{WORKLOAD.visit.clicks} times per image. The catalogue has {WORKLOAD.images_each:.0f} images per user (Zipf, "
        f"exponent {WORKLOAD.exponent}), and {WORKLOAD.new_share:.0%} of the opened images are new. Redis keeps an "
        f"embedding for {KEPT_S / 3600:.0f} h after its last use."
    )
    columns = [
        "users", "balanced", "clicks/s", "memory hits", "pods", "cores for clicks / loads / embeds", "Redis GiB",
        "Redis MiB/s", "Redis shards", "clicks Mbit/s",
    ]  # fmt: skip
    return f"{head}\n\n{_table(columns, [_fleet_row(*row) for row in fleets])}"


def _fleet_row(people: int, by_hash: bool, fleet: Fleet) -> tuple[str, ...]:  # noqa: FBT001 - a cell of the row
    workload = replace(WORKLOAD, clickers=people)
    return (
        f"{people:,}",
        _BALANCING[by_hash],
        f"{workload.clicks_per_s:,.0f}",
        f"{fleet.tier.click_hits:.3f}",
        f"{fleet.pods:,}",
        f"{fleet.click_cores:,.1f} / {fleet.load_cores:,.1f} / {fleet.embed_cores:,.1f}",
        f"{fleet.redis_gib:,.1f}",
        f"{fleet.redis_mib_per_s:,.0f}",
        f"{fleet.redis_shards:,}",
        f"{fleet.ingress_mbit_per_s:,.1f}",
    )


def _table(columns: list[str], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
