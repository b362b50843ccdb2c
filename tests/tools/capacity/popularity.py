"""Who looks at which picture: Zipf's law over a catalogue, in groups where it is too long to list."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Ranks up to here are told apart, further ones in so many groups: the tail of a law is smooth.
_SINGLE_RANKS = 2000
_GROUPS = 2000


@dataclass(frozen=True, slots=True)
class Popularity:
    """Shares of the visits, by groups of equally popular pictures.

    Attributes:
        share: of all visits that one picture of the group gets, (G,); `count @ share` is 1.
        count: pictures in the group, (G,).
    """

    share: Floats
    count: Floats

    @classmethod
    def zipf(cls, pictures: int, exponent: float) -> "Popularity":
        """The picture of rank i gets a share in proportion to i to the power of -exponent.

        Args:
            pictures: in the catalogue, at least 1.
            exponent: 0 is uniform; pictures on the web have 0.6 to 1.0.
        """
        singles = np.arange(1, min(pictures, _SINGLE_RANKS) + 1, dtype=np.float64)
        edges = np.unique(np.geomspace(_SINGLE_RANKS, pictures, _GROUPS).round()) if pictures > _SINGLE_RANKS else []
        starts, ends = np.asarray(edges[:-1], np.float64), np.asarray(edges[1:], np.float64)
        ranks = np.concatenate([singles, (starts + ends + 1) / 2])
        count = np.concatenate([np.ones(len(singles)), ends - starts])
        weight = ranks**-exponent
        return cls(weight / float(count @ weight), count)

    @property
    def pictures(self) -> int:
        """In the catalogue."""
        return round(float(self.count.sum()))

    def scaled_to(self, share_of_pictures: float) -> "Popularity":
        """What one of several replicas sees of a catalogue that is divided among them by hash."""
        count = self.count * share_of_pictures
        return Popularity(self.share / float(count @ self.share), count)
