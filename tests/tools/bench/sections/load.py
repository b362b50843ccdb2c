"""Concurrent clients: closed loops compared with bare decoder calls on all cores, and open loops at fixed rates."""

import threading
from time import perf_counter

from tools.bench.connection import Connection
from tools.bench.disc import disc_centre
from tools.bench.load_generator import Load
from tools.bench.ours import Clicks
from tools.bench.samples import Samples, median
from tools.bench.section import Cell, Section, Table
from tools.bench.tail import ideal_queue, tail_table
from tools.bench.workbench import Workbench, click_request, megapixels

CLIENTS = 16  # number of clients for the throughput
RANDOM_SEED = 1  # of the first run with random arrivals
OPEN_RATE = 70  # rate for the p99, in per cent of the throughput


def measure(bench: Workbench) -> Section:
    """Measure the throughput, and then the latency at shares of it."""
    size = bench.effort.medium
    connection = bench.connect(bench.service.url)
    own = [click_request(bench.embed(connection, size), size) for _ in range(bench.effort.load_images)]
    closed, values = _closed(bench, own)
    open_, more = _open(bench, connection, own, values["load.per_s"])
    return Section(
        "Concurrent clients",
        f"""
            One point, one mask, run lengths, {megapixels(size)}. The clients use {len(own)} images that are in
            memory. The load generator is a separate process on the same cores; each row shows its share of one core.

            Bare decoder calls are measured alternately in the same run, on as many images. One variant makes one call
            at a time with all threads, the other runs one loop per core with one thread each. The faster variant is
            the reference.

            In an open loop latency counts from the time at which the click was due. `late` is the delay of the load
            generator itself.

            An ideal queue answers the same random arrivals in their order, each after the same time, with the
            measured throughput of {CLIENTS} clients. Clicks wait for each other there too. What the service adds is
            the difference.
            """,
        [closed, *open_],
        values | more,
    )


def _closed(bench: Workbench, requests: list[bytes]) -> tuple[Table, dict[str, float]]:
    generator, seconds = bench.generator, bench.effort.load_s
    together = bench.clicks(bench.cpus, images=len(requests))
    apart = bench.clicks(1, images=len(requests))
    loops: dict[str, list[float]] = {}
    loads: dict[tuple[int, str], list[Load]] = {}
    for _ in range(bench.effort.load_repeats):
        for name, clicks, workers in (
            (f"one loop, {bench.cpus} threads a call", together, 1),
            (f"{bench.cpus} loops, 1 thread a call", apart, bench.cpus),
        ):
            loops.setdefault(name, []).append(
                _calls_per_s(clicks, workers, seconds / 2, disc_centre(bench.effort.medium))
            )
        for clients in bench.effort.clients:
            load = generator.closed(bench.service.url, requests, clients=clients, seconds=seconds)
            loads.setdefault((clients, "own images"), []).append(load)
        same = generator.closed(bench.service.url, requests[:1], clients=CLIENTS, seconds=seconds)
        loads.setdefault((CLIENTS, "one image"), []).append(same)
    plain = max(median(rates) for rates in loops.values())
    table = Table(
        "Closed loop: each client sends when it was answered",
        ["clients", "on", "clicks/s", "÷ bare calls", "p50 ms", "p90 ms", "p99 ms", "refused", "failed", "generator"],
    )
    for name, rates in loops.items():
        table.rows.append([f"bare decoder calls: {name}", "", median(rates), median(rates) / plain, *[None] * 6])
    values = {"load.plain_per_s": plain}
    for (clients, on), runs in loads.items():
        per_s = median([run.per_s for run in runs])
        table.rows.append([clients, on, per_s, per_s / plain, *_cells(runs)])
        if on == "own images":
            values[f"load.per_s.{clients}"] = per_s
    values["load.per_s"] = values[f"load.per_s.{CLIENTS}"]
    values["load.share_of_plain"] = values["load.per_s"] / plain
    return table, values


def _open(
    bench: Workbench, connection: Connection, requests: list[bytes], per_s: float
) -> tuple[list[Table], dict[str, float]]:
    table = Table(
        "Open loop: clicks come at a fixed rate",
        ["rate", "arrivals", "clicks/s", "n", "p50 ms", "p90 ms", "p99 ms", "refused", "failed", "generator",
         "p99 ÷ p50", "late p99 ms"],
    )  # fmt: skip
    values: dict[str, float] = {}
    random_runs: list[Load] = []
    plans = [(rate, None) for rate in bench.effort.rates]
    plans.append((OPEN_RATE, RANDOM_SEED))
    for rate, seed in plans:
        runs = []
        for number in range(bench.effort.load_repeats):
            connection.ask(requests[0])  # the first call after a pause has cold caches
            shifted = None if seed is None else seed + number
            runs.append(
                bench.generator.open(
                    bench.service.url, requests, rate=per_s * rate / 100, seconds=bench.effort.load_s, seed=shifted
                )
            )
        merged = _merged(runs)
        ratio = merged.percentile(99) / merged.p50
        arrivals = "in equal steps" if seed is None else "at random (Poisson)"
        late = Samples([ms for run in runs for ms in run.late_ms.ms]).percentile(99)
        table.rows.append([f"{rate} %", arrivals, per_s * rate / 100, len(merged.ms), *_cells(runs), ratio, late])
        if seed is None:
            values |= {f"load.open_p50_ms.{rate}": merged.p50, f"load.open_p99_ms.{rate}": merged.percentile(99)}
            if rate == OPEN_RATE:
                values["load.open_p99_share"] = ratio
        else:
            values["load.poisson_p99_share"] = ratio
            random_runs = runs
    for servers in sorted({1, bench.cpus}):
        table.rows.append(_ideal_row(bench, per_s, servers))
    return [table, tail_table(random_runs)], values


def _ideal_row(bench: Workbench, per_s: float, servers: int) -> list[Cell]:
    seeds = range(RANDOM_SEED, RANDOM_SEED + bench.effort.load_repeats)
    rate = per_s * OPEN_RATE / 100
    ideal = ideal_queue(rate, bench.effort.load_s, seeds, per_s=per_s, servers=servers)
    name = f"ideal queue, {servers} at a time"
    ratio = ideal.percentile(99) / ideal.p50
    return [f"{OPEN_RATE} %", name, rate, *ideal.cells(), None, None, None, ratio, None]


def _calls_per_s(clicks: Clicks, workers: int, seconds: float, point: tuple[float, float]) -> float:
    """Return the decoder calls per second of threads that only call the decoder."""
    counts = [0] * workers
    started = perf_counter()

    def loop(worker: int) -> None:
        while perf_counter() - started < seconds:
            clicks.decode([point], image=worker + workers * counts[worker])
            counts[worker] += 1

    threads = [threading.Thread(target=loop, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (perf_counter() - started)


def _merged(runs: list[Load]) -> Samples:
    return Samples([ms for run in runs for ms in run.samples.ms])


def _cells(runs: list[Load]) -> list:
    """Return p50, p90, p99, refused, failed and the load generator's share of a core."""
    merged = _merged(runs)
    share = f"{median([run.cpu_share for run in runs]):.0%}"
    return [*merged.cells()[1:], sum(run.refused for run in runs), sum(run.failed for run in runs), share]
