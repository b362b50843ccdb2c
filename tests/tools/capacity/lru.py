"""Hit ratio of a memory tier by Che's approximation, for users who click on an image several times.

A least-recently-used cache of C values holds approximately the values that were used within a *characteristic time* T.
T is the same for all values, and the expected number of values that were used within T is C (Che, Tung, Wang:
Hierarchical Web Caching Systems, 2002). Here uses come in visits: a user opens an image and clicks several times.
"""

from dataclasses import dataclass

import numpy as np
from tools.capacity.popularity import Floats, Popularity

_STEPS = 400  # of the integral over the start of a visit
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Visit:
    """Clicks of one user on one image."""

    clicks: int
    gap_s: float  # between two clicks

    @property
    def duration_s(self) -> float:
        """Time from the first to the last click, in seconds."""
        return (self.clicks - 1) * self.gap_s


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """A replica's memory tier in the steady state.

    Attributes:
        characteristic_s: Time that an image stays after its last use, in seconds. Infinite if all images fit.
        click_hits: Hit ratio of all clicks, 0..1.
        visit_hits: Hit ratio of first clicks, 0..1.
    """

    characteristic_s: float
    click_hits: float
    visit_hits: float


def memory_tier(
    popularity: Popularity, *, visits_per_s: float, visit: Visit, tier_images: float, meets_share: float
) -> MemoryTier:
    """Predict the memory tier of one replica.

    Args:
        popularity: Popularity of the images of this replica.
        visits_per_s: Visits per second with clicks on this replica.
        visit: Visit of one user to one image.
        tier_images: Number of images that the tier holds.
        meets_share: Probability that a click of a visit comes to this replica: 1 if the load balancer uses the image
            hash, 1 / replicas if it selects replicas at random.
    """
    rates = visits_per_s * popularity.share

    def held(characteristic_s: float) -> float:
        return float(popularity.count @ _used_within(characteristic_s, rates, visit, meets_share))

    if popularity.images <= tier_images:
        characteristic_s = float("inf")
        used = np.ones_like(rates)
    else:
        low, high = 0.0, 1.0
        while held(high) < tier_images:
            high *= 2.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if held(middle) < tier_images else (low, middle)
        characteristic_s = high
        used = _used_within(characteristic_s, rates, visit, meets_share)
    weight = popularity.count * popularity.share
    click_hits = []
    for number in range(visit.clicks):
        own = number if characteristic_s == float("inf") else min(number, int(characteristic_s / visit.gap_s))
        click_hits.append(float(weight @ (1.0 - (1.0 - used) * (1.0 - meets_share) ** own)))
    return MemoryTier(characteristic_s, float(np.mean(click_hits)), click_hits[0])


def _used_within(window_s: float, rates: Floats, visit: Visit, meets_share: float) -> Floats:
    """Return the probability (G,) of a use in the last `window_s`, by visits that begin at `rates` per second."""
    began_s = (np.arange(_STEPS) + 0.5) / _STEPS * (window_s + visit.duration_s)  # seconds ago
    clicks_ago = began_s[:, None] - np.arange(visit.clicks) * visit.gap_s
    inside = np.count_nonzero((clicks_ago >= 0.0) & (clicks_ago < window_s), axis=1)
    counting_s = float(np.mean(1.0 - (1.0 - meets_share) ** inside)) * (window_s + visit.duration_s)
    return 1.0 - np.exp(-rates * counting_s)
