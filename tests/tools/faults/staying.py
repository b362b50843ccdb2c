"""Long run: half an hour of prompts on more images than memory holds. Measures growth, latency and hit ratio."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from support.redis_server import RedisServer
from support.service_client import Scrape, open_client
from tools.bench.load_generator import Exchange, LoadGenerator
from tools.capacity.lru import Visit, memory_tier
from tools.capacity.popularity import Popularity
from tools.faults.outcome import Outcome
from tools.faults.scene import Sample, Scene, click, embed_all, sampler, sleep_until, upload, zipf

_MIB = 2**20
_SMALL = (64, 64)


@dataclass(frozen=True, slots=True)
class Plan:
    """Durations, counts and rates of a run. Measurements begin after `warm_s`."""

    seconds: float
    warm_s: float
    images: int
    tier_images: int
    clicks_per_s: float
    uploads_per_s: float
    sample_s: float
    window_s: float


_QUICK = Plan(14.0, 6.0, 8, 4, 8.0, 0.5, 0.5, 4.0)
_FULL = Plan(1800.0, 300.0, 60, 20, 12.0, 0.2, 5.0, 300.0)


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Run one replica with a real Redis, with prompts by Zipf's law and uploads of new images."""
    outcome, plan = Outcome("Long run"), _QUICK if quick else _FULL
    redis = scene.enter(RedisServer(arguments=["--maxmemory 1gb", "--maxmemory-policy allkeys-lfu"]))
    service = scene.service(redis_url=redis.url, memory_cache_bytes=scene.memory_bytes(plan.tier_images))
    hashes = embed_all(service.url, [scene.image(_SMALL) for _ in range(plan.images)])
    clicks = [click(image_hash, number, size=_SMALL) for number, image_hash in enumerate(hashes)]
    uploads = [upload(scene.image(_SMALL)) for _ in range(int(plan.uploads_per_s * plan.seconds) + 2)]
    order = zipf(clicks, [], int(plan.clicks_per_s * plan.seconds * 1.2), uploads_share=0.0, seed=4)
    with (
        LoadGenerator() as clicking,
        LoadGenerator() as uploading,
        open_client(service.url) as client,
        sampler(service.process.pid, every_s=plan.sample_s) as samples,
    ):
        started = samples[0].at_s
        clicking.start_open([service.url], order, rate=plan.clicks_per_s, seconds=plan.seconds, seed=5)
        uploading.start_open([service.url], uploads, rate=plan.uploads_per_s, seconds=plan.seconds, seed=6)
        sleep_until(started + plan.warm_s)
        warm = Scrape(client)
        traces = [generator.wait().trace for generator in (clicking, uploading)]
        end = Scrape(client)
    counted = [sample for sample in samples if sample.at_s >= started + plan.warm_s]
    _answers(outcome, traces, plan, started)
    _growth(outcome, counted, quick=quick)
    _hits(outcome, warm, end, plan)
    return outcome


def _answers(outcome: Outcome, traces: Sequence[Sequence[Exchange]], plan: Plan, started: float) -> None:
    for what, trace in zip(("clicks", "uploads"), traces, strict=True):
        failed = [one for one in trace if one.status != "200"]
        outcome.facts[f"{what}, not answered 200"] = f"{len(failed)} of {len(trace)}"
        kinds = Counter(f"{one.status} {one.code}".strip() for one in failed)
        outcome.promise(not failed, f"{what} failed: " + ", ".join(f"{n} × {kind}" for kind, n in kinds.items()))
    clicks = traces[0]
    windows = [
        float(np.percentile(ms, 99))
        for begin in np.arange(started + plan.warm_s, started + plan.seconds - plan.window_s / 2, plan.window_s)
        if (ms := [one.ms for one in clicks if begin <= one.due_s < begin + plan.window_s])
    ]
    outcome.facts[f"p99 of clicks, by {plan.window_s:.0f} s, ms"] = ", ".join(f"{p99:.0f}" for p99 in windows)
    outcome.facts["p50 of clicks, ms"] = f"{np.percentile([one.ms for one in clicks], 50):.1f}"


def _growth(outcome: Outcome, samples: Sequence[Sample], *, quick: bool) -> None:
    hours = np.array([sample.at_s for sample in samples]) / 3600.0
    rss_mib = np.array([sample.rss_bytes for sample in samples]) / _MIB
    slope = float(np.polyfit(hours, rss_mib, 1)[0])
    files, threads = ([getattr(sample, name) for sample in samples] for name in ("files", "threads"))
    outcome.facts["resident memory, MiB, first / last / most"] = (
        f"{rss_mib[0]:.0f} / {rss_mib[-1]:.0f} / {rss_mib.max():.0f}"
    )
    outcome.facts["growth, MiB per hour"] = f"{slope:+.1f}"
    outcome.facts["open files, least to most"] = f"{min(files)} to {max(files)}"
    outcome.facts["threads, least to most"] = f"{min(threads)} to {max(threads)}"
    # The quick form is too short for a slope, but would still find a leak of each prompt's masks, half a MiB.
    allowed = 120.0 if quick else 30.0
    grown = rss_mib[-1] - rss_mib[0]
    outcome.promise(grown < allowed, f"memory grew by {grown:.0f} MiB")
    outcome.promise(max(threads) - min(threads) <= 4, f"the number of threads varied: {min(threads)} to {max(threads)}")
    outcome.promise(max(files) - min(files) <= 64, f"the number of open files varied: {min(files)} to {max(files)}")


def _hits(outcome: Outcome, warm: Scrape, end: Scrape, plan: Plan) -> None:
    def grown(outcome_: str) -> float:
        labels = {"tier": "memory", "outcome": outcome_}
        return end.value("edgesam_cache_lookups_total", **labels) - warm.value("edgesam_cache_lookups_total", **labels)

    # Each upload is a lookup that misses, and its image is never used again.
    uploads = plan.uploads_per_s * (plan.seconds - plan.warm_s)
    hits, misses = grown("hit"), max(0.0, grown("miss") - uploads)
    measured = hits / (hits + misses)
    predicted = memory_tier(
        Popularity.zipf(plan.images, 1.0),
        visits_per_s=plan.clicks_per_s,
        visit=Visit(1, 1.0),
        tier_images=plan.tier_images,
        meets_share=1.0,
    ).click_hits
    outcome.facts["clicks that find their image in memory"] = f"{measured:.3f}, predicted {predicted:.3f}"
    outcome.promise(abs(measured / predicted - 1.0) < 0.2, f"hit ratio {measured:.3f}, predicted {predicted:.3f}")
