"""How often a click finds its image in a memory tier: Che's approximation, for people who stay on an image.

A least-recently-used cache of C values holds, to a good approximation, exactly what was used within a *characteristic
time* T, the same for all values, and T is where the expected number of such values is C (Che, Tung, Wang:
Hierarchical Web Caching Systems, 2002). Here uses come in visits: someone opens an image and clicks several times.
"""

from dataclasses import dataclass

import numpy as np
from tools.capacity.popularity import Floats, Popularity

_STEPS = 400  # of the integral over when a visit began
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Visit:
    """What one person does with one image."""

    clicks: int
    gap_s: float  # between two clicks

    @property
    def duration_s(self) -> float:
        """From the first click to the last."""
        return (self.clicks - 1) * self.gap_s


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """A replica's tier in the steady state.

    Attributes:
        characteristic_s: an image stays for so long after its last use; infinite where everything fits.
        click_hits: share of the clicks that find their image, 0..1.
        visit_hits: the same of first clicks.
    """

    characteristic_s: float
    click_hits: float
    visit_hits: float


def memory_tier(
    popularity: Popularity, *, visits_per_s: float, visit: Visit, room: float, meets_share: float
) -> MemoryTier:
    """What to expect of one replica.

    Args:
        popularity: of the images that this replica sees.
        visits_per_s: that touch this replica, to any extent.
        visit: of each.
        room: images that the tier holds.
        meets_share: probability that a click of a visit comes to this replica: 1 where the balancer goes by the
            image's hash, 1 / replicas where it goes by turns.
    """
    rates = visits_per_s * popularity.share

    def held(characteristic_s: float) -> float:
        return float(popularity.count @ _used_within(characteristic_s, rates, visit, meets_share))

    if popularity.images <= room:
        characteristic_s = float("inf")
        used = np.ones_like(rates)
    else:
        low, high = 0.0, 1.0
        while held(high) < room:
            high *= 2.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if held(middle) < room else (low, middle)
        characteristic_s = high
        used = _used_within(characteristic_s, rates, visit, meets_share)
    weight = popularity.count * popularity.share
    click_hits = []
    for number in range(visit.clicks):
        own = number if characteristic_s == float("inf") else min(number, int(characteristic_s / visit.gap_s))
        click_hits.append(float(weight @ (1.0 - (1.0 - used) * (1.0 - meets_share) ** own)))
    return MemoryTier(characteristic_s, float(np.mean(click_hits)), click_hits[0])


def _used_within(window_s: float, rates: Floats, visit: Visit, meets_share: float) -> Floats:
    """Probability that an image was used here in the last `window_s`, by visits that begin at `rates` a second."""
    began_s = (np.arange(_STEPS) + 0.5) / _STEPS * (window_s + visit.duration_s)  # ago
    clicks_ago = began_s[:, None] - np.arange(visit.clicks) * visit.gap_s
    inside = np.count_nonzero((clicks_ago >= 0.0) & (clicks_ago < window_s), axis=1)
    counting_s = float(np.mean(1.0 - (1.0 - meets_share) ** inside)) * (window_s + visit.duration_s)
    return 1.0 - np.exp(-rates * counting_s)
