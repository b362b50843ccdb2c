"""Che's approximation compared with a simulated cache."""

import heapq
import random
from collections import OrderedDict

import numpy as np
import pytest
from tools.capacity.lru import Visit, memory_tier
from tools.capacity.popularity import Popularity


def clicks_of(popularity: Popularity, visit: Visit, *, visits: int, visits_per_s: float) -> list[tuple[int, bool]]:
    """Return (image, whether it is the first click of a visit) in the order of time."""
    chance = random.Random(3)
    chosen = chance.choices(range(popularity.images), popularity.share.tolist(), k=visits)
    timeline: list[tuple[float, int, bool]] = []
    now = 0.0
    for image in chosen:
        now += chance.expovariate(visits_per_s)
        at = now
        for number in range(visit.clicks):
            heapq.heappush(timeline, (at, image, number == 0))
            at += visit.gap_s
    return [(image, is_first) for _, image, is_first in (heapq.heappop(timeline) for _ in range(len(timeline)))]


def simulated_hit_ratios(
    clicks: list[tuple[int, bool]], *, tier_images: int, replicas: int, by_hash: bool
) -> tuple[float, float]:
    """Return the hit ratios of clicks and of first clicks in a simulated cache, in the second half of the time."""
    chance = random.Random(5)
    tiers: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(replicas)]
    hits: list[tuple[bool, bool]] = []
    for image, is_first in clicks:
        tier = tiers[image % replicas if by_hash else chance.randrange(replicas)]
        hits.append((image in tier, is_first))
        tier[image] = None
        tier.move_to_end(image)
        if len(tier) > tier_images:
            tier.popitem(last=False)
    late = hits[len(hits) // 2 :]
    return float(np.mean([hit for hit, _ in late])), float(np.mean([hit for hit, first in late if first]))


@pytest.mark.parametrize("by_hash", [True, False])
@pytest.mark.parametrize(("tier_images", "clicks"), [(20, 1), (20, 8), (60, 8)])
def test_the_approximation_agrees_with_a_simulated_cache(tier_images: int, clicks: int, *, by_hash: bool) -> None:
    replicas, visits_per_s = 4, 2.0
    popularity, visit = Popularity.zipf(600, 0.8), Visit(clicks, gap_s=3.0)
    expected = memory_tier(
        popularity.scaled_to(1 / replicas) if by_hash else popularity,
        visits_per_s=visits_per_s / replicas if by_hash else visits_per_s,
        visit=visit,
        tier_images=tier_images,
        meets_share=1.0 if by_hash else 1 / replicas,
    )
    order = clicks_of(popularity, visit, visits=12_000, visits_per_s=visits_per_s)
    measured = simulated_hit_ratios(order, tier_images=tier_images, replicas=replicas, by_hash=by_hash)
    assert (expected.click_hits, expected.visit_hits) == pytest.approx(measured, abs=0.06)


def test_the_hit_ratio_is_one_if_all_images_fit() -> None:
    tier = memory_tier(
        Popularity.zipf(50, 1.0), visits_per_s=1.0, visit=Visit(5, 2.0), tier_images=50, meets_share=1.0
    )  # fmt: skip
    assert (tier.click_hits, tier.visit_hits) == (pytest.approx(1.0), pytest.approx(1.0))


@pytest.mark.parametrize("images", [1, 100, 2000, 2001, 1_000_000])
def test_shares_add_up_to_one(images: int) -> None:
    popularity = Popularity.zipf(images, 0.9)
    assert popularity.images == images
    assert float(popularity.count @ popularity.share) == pytest.approx(1.0)


def test_groups_of_ranks_keep_the_law() -> None:
    exact = np.arange(1, 50_001) ** -0.9
    popularity = Popularity.zipf(50_000, 0.9)
    assert popularity.share[0] == pytest.approx(exact[0] / exact.sum(), rel=1e-3)
