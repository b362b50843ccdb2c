"""Popularity of images: Zipf's law over a catalogue, with groups of images in long catalogues."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Lower ranks are separate, and higher ranks are in groups, because the tail of the law is smooth.
_SINGLE_RANKS = 2000
_GROUPS = 2000


@dataclass(frozen=True, slots=True)
class Popularity:
    """Shares of the visits, by groups of equally popular images.

    Attributes:
        share: Share of all visits for one image of each group, (G,). `count @ share` is 1.
        count: Number of images in each group, (G,).
    """

    share: Floats
    count: Floats

    @classmethod
    def zipf(cls, images: int, exponent: float) -> "Popularity":
        """Return shares by Zipf's law: that of the image of rank i is proportional to i to the power of -exponent.

        Args:
            images: Number of images in the catalogue, at least 1.
            exponent: Exponent of the law. 0 is uniform; images on the web have 0.6 to 1.0.
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
        """Number of images in the catalogue."""
        return round(float(self.count.sum()))

    def scaled_to(self, share_of_images: float) -> "Popularity":
        """Return the popularity on one of several replicas, among which the catalogue is divided by hash."""
        count = self.count * share_of_images
        return Popularity(self.share / float(count @ self.share), count)
