"""Pods, memory of Redis and network that a number of users needs, computed from measured costs."""

from dataclasses import dataclass
from math import ceil

from tools.capacity.lru import MemoryTier, Visit, memory_tier
from tools.capacity.popularity import Popularity

MIB = 2**20
# Memory of Redis relative to its values, with its overhead and output buffers.
REDIS_OVERHEAD = 1.3
# Rate at which one Redis process serves values of 2 MiB before its single thread and a 10 Gbit/s card are saturated.
REDIS_MIB_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs, measured on one machine. Processor seconds are those of the service's process."""

    click_cpu_s: float  # for a click on an image in memory
    load_cpu_s: float  # in addition, for a click on an image in Redis
    embed_cpu_s: float
    image_mib: float  # memory of an image with its image state
    redis_mib: float  # memory of an image in Redis
    click_kb: float  # request and response, with run lengths
    process_mib: float  # resident memory without images


@dataclass(frozen=True, slots=True)
class Workload:
    """Clicks of a number of users.

    Attributes:
        clickers: Number of users at the same time.
        visit: Visit of one user to one image. The next visit follows immediately.
        images_each: Number of images in the catalogue, per user.
        exponent: Exponent of Zipf's law over the catalogue.
        new_share: Share of visits to images that are in no cache.
    """

    clickers: int
    visit: Visit
    images_each: float
    exponent: float
    new_share: float

    @property
    def visits_per_s(self) -> float:
        """Visits per second of all users."""
        return self.clickers / (self.visit.clicks * self.visit.gap_s)

    @property
    def clicks_per_s(self) -> float:
        """Clicks per second of all users."""
        return self.visits_per_s * self.visit.clicks


@dataclass(frozen=True, slots=True)
class Pod:
    """Resources of a replica."""

    cores: int
    memory_tier_mib: float
    target_load: float  # of its cores, 0..1; queues grow beyond it


@dataclass(frozen=True, slots=True)
class Fleet:
    """Resources that a workload needs."""

    pods: int
    click_cores: float
    load_cores: float
    embed_cores: float
    tier: MemoryTier
    redis_gib: float
    redis_mib_per_s: float
    redis_shards: int
    ingress_mbit_per_s: float


def plan(workload: Workload, costs: Costs, pod: Pod, *, by_hash: bool, kept_s: float) -> Fleet:
    """Return the resources with which pods have their target load.

    The number of pods affects the hit ratio, which affects the number of pods. So both are computed iteratively.

    Args:
        workload: Clicks to serve.
        costs: Costs of one request.
        pod: Resources of one pod.
        by_hash: Whether the load balancer sends all clicks on an image to one replica.
        kept_s: Time that Redis keeps an embedding after its last use, in seconds.
    """
    catalogue = Popularity.zipf(max(1, round(workload.clickers * workload.images_each)), workload.exponent)
    click_cores = workload.clicks_per_s * costs.click_cpu_s
    embed_cores = workload.visits_per_s * workload.new_share * costs.embed_cpu_s
    pods, tier, load_cores = 1, MemoryTier(0.0, 0.0, 0.0), 0.0
    for _ in range(20):
        tier = memory_tier(
            catalogue.scaled_to(1 / pods) if by_hash else catalogue,
            visits_per_s=workload.visits_per_s / pods if by_hash else workload.visits_per_s,
            visit=workload.visit,
            tier_images=pod.memory_tier_mib / costs.image_mib,
            meets_share=1.0 if by_hash else 1 / pods,
        )
        load_cores = workload.clicks_per_s * (1.0 - tier.click_hits) * costs.load_cpu_s
        needed = max(2, ceil((click_cores + embed_cores + load_cores) / (pod.cores * pod.target_load)))
        if needed == pods:
            break
        pods = needed
    read_mib_per_s = workload.clicks_per_s * (1.0 - tier.click_hits) * costs.redis_mib
    written_mib_per_s = workload.visits_per_s * workload.new_share * costs.redis_mib
    alive = (
        min(float(catalogue.images), workload.visits_per_s * kept_s)
        + workload.visits_per_s * workload.new_share * kept_s
    )
    redis_mib_per_s = read_mib_per_s + written_mib_per_s
    return Fleet(
        pods=pods,
        click_cores=click_cores,
        load_cores=load_cores,
        embed_cores=embed_cores,
        tier=tier,
        redis_gib=alive * costs.redis_mib * REDIS_OVERHEAD / 1024,
        redis_mib_per_s=redis_mib_per_s,
        redis_shards=max(1, ceil(redis_mib_per_s / REDIS_MIB_PER_S)),
        ingress_mbit_per_s=workload.clicks_per_s * costs.click_kb * 8 / 1000,
    )
