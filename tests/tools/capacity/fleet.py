"""What so many people need: pods, memory of Redis, network; arithmetic over measured costs."""

from dataclasses import dataclass
from math import ceil

from tools.capacity.lru import MemoryTier, Visit, memory_tier
from tools.capacity.popularity import Popularity

MIB = 2**20
# Redis's own overhead beside the values, and headroom for its output buffers.
REDIS_OVERHEAD = 1.3
# One Redis process serves values of 2 MiB at about this rate before its single thread and a 10 Gbit/s card are full.
REDIS_MIB_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured on one machine; processor seconds are of the service's process."""

    click_cpu_s: float  # image in memory
    load_cpu_s: float  # more for a click whose image comes from Redis
    embed_cpu_s: float
    image_mib: float  # of memory, prepared
    redis_mib: float  # of Redis, an image
    click_kb: float  # in and out, run lengths
    process_mib: float  # resident before any image


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who clicks on what.

    Attributes:
        clickers: people at work at the same time.
        visit: of one of them to one image; then comes the next image at once.
        images_each: of the catalogue; images of one's own make it long.
        exponent: of Zipf's law over the catalogue.
        new_share: visits to images that nobody has embedded in the lifetime of the cache.
    """

    clickers: int
    visit: Visit
    images_each: float
    exponent: float
    new_share: float

    @property
    def visits_per_s(self) -> float:
        """Of all."""
        return self.clickers / (self.visit.clicks * self.visit.gap_s)

    @property
    def clicks_per_s(self) -> float:
        """Of all."""
        return self.visits_per_s * self.visit.clicks


@dataclass(frozen=True, slots=True)
class Pod:
    """How a replica is cut."""

    cores: int
    memory_tier_mib: float
    target_load: float  # of its cores, 0..1: beyond it queues grow


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is needed."""

    pods: int
    click_cores: float
    load_cores: float
    embed_cores: float
    tier: MemoryTier
    redis_gib: float
    redis_mib_per_s: float
    redis_shards: int
    ingress_mbit_per_s: float


def plan(crowd: Crowd, costs: Costs, pod: Pod, *, by_hash: bool, kept_s: float) -> Fleet:
    """The fleet whose pods are loaded as far as they should be; its size decides its hit ratio, so it is iterated.

    Args:
        crowd: to serve.
        costs: of one request.
        pod: of which there are to be so many.
        by_hash: whether the balancer sends an image's clicks to one replica.
        kept_s: an embedding stays in Redis for so long after its last use.
    """
    catalogue = Popularity.zipf(max(1, round(crowd.clickers * crowd.images_each)), crowd.exponent)
    click_cores = crowd.clicks_per_s * costs.click_cpu_s
    embed_cores = crowd.visits_per_s * crowd.new_share * costs.embed_cpu_s
    pods, tier, load_cores = 1, MemoryTier(0.0, 0.0, 0.0), 0.0
    for _ in range(20):
        tier = memory_tier(
            catalogue.scaled_to(1 / pods) if by_hash else catalogue,
            visits_per_s=crowd.visits_per_s / pods if by_hash else crowd.visits_per_s,
            visit=crowd.visit,
            room=pod.memory_tier_mib / costs.image_mib,
            meets_share=1.0 if by_hash else 1 / pods,
        )
        load_cores = crowd.clicks_per_s * (1.0 - tier.click_hits) * costs.load_cpu_s
        needed = max(2, ceil((click_cores + embed_cores + load_cores) / (pod.cores * pod.target_load)))
        if needed == pods:
            break
        pods = needed
    read_mib_per_s = crowd.clicks_per_s * (1.0 - tier.click_hits) * costs.redis_mib
    written_mib_per_s = crowd.visits_per_s * crowd.new_share * costs.redis_mib
    alive = min(float(catalogue.images), crowd.visits_per_s * kept_s) + crowd.visits_per_s * crowd.new_share * kept_s
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
        ingress_mbit_per_s=crowd.clicks_per_s * costs.click_kb * 8 / 1000,
    )
