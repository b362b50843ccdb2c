"""Test of the capacity model: hit ratios and latencies of four replicas and one Redis under a load of visits."""

import heapq
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from support.service_client import embed
from tools.bench.load_generator import Load, LoadGenerator
from tools.capacity.lru import MemoryTier, Visit, memory_tier
from tools.capacity.popularity import Popularity
from tools.capacity.queueing import waiting_s
from tools.capacity.replicas import Replicas, new_image

from service.process import available_cpus
from service.settings import BUNDLED_MODEL

_SEED = 11
_VISIT = Visit(clicks=6, gap_s=2.0)


@dataclass(frozen=True, slots=True)
class Setup:
    """Parameters of the experiment.

    Attributes:
        replicas: Number of processes, of one thread each.
        images: Number of images in the catalogue.
        exponent: Exponent of Zipf's law.
        tier_images: Number of images that a replica's memory tier holds.
        visit: Visit of one user to one image.
        clicks_per_s: Clicks per second of all users.
        warm_s: Duration of clicks that fill the tiers and are not measured.
        seconds: Duration of measured clicks, for each way of balancing.
        calm_clicks: Number of clicks of each kind that measure the service times without load.
        model: Folder of the served artifact.
    """

    replicas: int = 4
    images: int = 240
    exponent: float = 0.8
    tier_images: int = 12
    visit: Visit = _VISIT
    clicks_per_s: float = 14.0
    warm_s: float = 25.0
    seconds: float = 60.0
    calm_clicks: int = 60
    model: Path = BUNDLED_MODEL


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Times of requests without load: in milliseconds, and processor times of the service in seconds."""

    memory_ms: list[float]
    redis_ms: list[float]
    memory_cpu_s: float
    redis_cpu_s: float
    embed_cpu_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Predicted and measured values for one way of balancing."""

    by_hash: bool
    clicks: int
    failed: int
    predicted_hits: float
    measured_hits: float
    predicted_ms: float
    measured_ms: float
    measured_p50_ms: float
    measured_p99_ms: float


def run(setup: Setup) -> tuple[ServiceTimes, list[Outcome]]:
    """Measure the service times, and then both ways of balancing, each on new replicas."""
    outcomes = []
    with _replicas(setup) as replicas:
        times = _service_times(replicas, setup)
    for by_hash in (True, False):
        with _replicas(setup) as replicas:
            outcomes.append(_play(replicas, setup, times, by_hash=by_hash))
    return times, outcomes


def predict_tier(setup: Setup, *, by_hash: bool) -> MemoryTier:
    """Predict the memory tier of a replica."""
    catalogue, count = Popularity.zipf(setup.images, setup.exponent), setup.replicas
    visits_per_s = setup.clicks_per_s / setup.visit.clicks
    return memory_tier(
        catalogue.scaled_to(1 / count) if by_hash else catalogue,
        visits_per_s=visits_per_s / count if by_hash else visits_per_s,
        visit=setup.visit,
        tier_images=setup.tier_images,
        meets_share=1.0 if by_hash else 1 / count,
    )


def predict_ms(setup: Setup, times: ServiceTimes, tier: MemoryTier) -> float:
    """Predict the mean time of a click: service time by tier, queue of the replica, and wait for a processor."""
    from_redis = 1.0 - tier.click_hits
    memory_s, redis_s = fmean(times.memory_ms) / 1000.0, fmean(times.redis_ms) / 1000.0
    service_s = tier.click_hits * memory_s + from_redis * redis_s
    squares = tier.click_hits * (memory_s**2 + (pstdev(times.memory_ms) / 1000.0) ** 2) + from_redis * (
        redis_s**2 + (pstdev(times.redis_ms) / 1000.0) ** 2
    )
    variation = max(0.0, squares - service_s**2) ** 0.5 / service_s
    own_rate = setup.clicks_per_s / setup.replicas
    own_s = waiting_s(rate_per_s=own_rate, service_s=service_s, servers=1, variation=variation)
    others_s = waiting_s(
        rate_per_s=setup.clicks_per_s - own_rate, service_s=service_s, servers=available_cpus(), variation=variation
    )
    return (service_s + own_s + others_s) * 1000.0


def _replicas(setup: Setup) -> Replicas:
    return Replicas(count=setup.replicas, images=setup.images, tier_images=setup.tier_images, model=setup.model)


def _service_times(replicas: Replicas, setup: Setup) -> ServiceTimes:
    """Measure the service times of one replica at a low rate, while the others are idle."""
    client, url = replicas.clients[:1], replicas.urls[0]
    calm_per_s = 3.0
    seconds = setup.calm_clicks / calm_per_s
    with LoadGenerator() as generator:

        def measure(clicks: list[bytes]) -> tuple[Load, float]:
            before = replicas.counted(client)
            load = generator.open(url, clicks, rate=calm_per_s, seconds=seconds, seed=_SEED)
            asked = len(load.late_ms.ms) + round(calm_per_s * min(1.0, seconds / 4))
            return load, replicas.counted(client).since(before).cpu_s / asked

        memory, memory_cpu_s = measure([replicas.click(0)])
        # All images of the catalogue in order: the tier evicts each one long before it is used again.
        redis, redis_cpu_s = measure([replicas.click(image) for image in range(setup.images)])
    before = replicas.counted(client)
    images = 4
    for seed in range(1, images + 1):
        embed(client[0], new_image(seed))
    embed_cpu_s = replicas.counted(client).since(before).cpu_s / images
    return ServiceTimes(memory.samples.ms, redis.samples.ms, memory_cpu_s, redis_cpu_s, embed_cpu_s)


def _play(replicas: Replicas, setup: Setup, times: ServiceTimes, *, by_hash: bool) -> Outcome:
    def play(seconds: float, seed: int) -> list[Load]:
        orders = _orders(setup, seconds=seconds + 2.0, seed=seed, by_hash=by_hash)
        total = sum(map(len, orders))

        def of_replica(number: int) -> Load:
            clicks = [replicas.click(image) for image in orders[number]]
            rate = setup.clicks_per_s * len(clicks) / total
            return generators[number].open(
                replicas.urls[number], clicks, rate=rate, seconds=seconds, seed=seed + number
            )

        with ThreadPoolExecutor(setup.replicas) as pool:
            return list(pool.map(of_replica, range(setup.replicas)))

    with ExitStack() as stack:
        generators = [stack.enter_context(LoadGenerator()) for _ in range(setup.replicas)]
        play(setup.warm_s, _SEED)
        before = replicas.counted()
        loads = play(setup.seconds, _SEED + 100)
        counted = replicas.counted().since(before)
    tier = predict_tier(setup, by_hash=by_hash)
    ms = sorted(value for load in loads for value in load.samples.ms)
    return Outcome(
        by_hash=by_hash,
        clicks=len(ms),
        failed=sum(load.failed + load.refused for load in loads),
        predicted_hits=tier.click_hits,
        measured_hits=counted.hit_ratio,
        predicted_ms=predict_ms(setup, times, tier),
        measured_ms=fmean(ms),
        measured_p50_ms=ms[len(ms) // 2],
        measured_p99_ms=ms[int(len(ms) * 0.99)],
    )


def _orders(setup: Setup, *, seconds: float, seed: int, by_hash: bool) -> list[list[int]]:
    """Return the clicked images of each replica in the order of time, with visits that have begun before the start."""
    chance = random.Random(seed)
    popularity = Popularity.zipf(setup.images, setup.exponent).share.tolist()
    timeline: list[tuple[float, int]] = []
    began = -setup.visit.duration_s
    while began < seconds:
        (image,) = chance.choices(range(setup.images), popularity)
        for number in range(setup.visit.clicks):
            at = began + number * setup.visit.gap_s
            if 0.0 <= at < seconds:
                heapq.heappush(timeline, (at, image))
        began += chance.expovariate(setup.clicks_per_s / setup.visit.clicks)
    orders: list[list[int]] = [[] for _ in range(setup.replicas)]
    while timeline:
        _, image = heapq.heappop(timeline)
        orders[image % setup.replicas if by_hash else chance.randrange(setup.replicas)].append(image)
    return orders
