"""Who looks at which image: Zipf's law over a catalogue, in groups where it is too long to list."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Ranks up to here are told apart, further ones in so many groups: the tail of a law is smooth.
_SINGLE_RANKS = 2000
_GROUPS = 2000


@dataclass(frozen=True, slots=True)
class Popularity:
    """Shares of the visits, by groups of equally popular images.

    Attributes:
        share: of all visits that one image of the group gets, (G,); `count @ share` is 1.
        count: images in the group, (G,).
    """

    share: Floats
    count: Floats

    @classmethod
    def zipf(cls, images: int, exponent: float) -> "Popularity":
        """The image of rank i gets a share in proportion to i to the power of -exponent.

        Args:
            images: in the catalogue, at least 1.
            exponent: 0 is uniform; images on the web have 0.6 to 1.0.
        """
        singles = np.arange(1, min(images, _SINGLE_RANKS) + 1, dtype=np.float64)
        edges = np.unique(np.geomspace(_SINGLE_RANKS, images, _GROUPS).round()) if images > _SINGLE_RANKS else []
        starts, ends = np.asarray(edges[:-1], np.float64), np.asarray(edges[1:], np.float64)
        ranks = np.concatenate([singles, (starts + ends + 1) / 2])
        count = np.concatenate([np.ones(len(singles)), ends - starts])
        weight = ranks**-exponent
        return cls(weight / float(count @ weight), count)

    @property
    def images(self) -> int:
        """In the catalogue."""
        return round(float(self.count.sum()))

    def scaled_to(self, share_of_images: float) -> "Popularity":
        """What one of several replicas sees of a catalogue that is divided among them by hash."""
        count = self.count * share_of_images
        return Popularity(self.share / float(count @ self.share), count)
