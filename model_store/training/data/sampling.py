"""Sampling weights of photos and masks: by source, not by number of photos, since a few sources have most of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import PhotoRecord

GROUPS: Mapping[str, frozenset[str]] = {
    "bsds500": frozenset({"bsds500"}),
    "coco": frozenset({"coco128", "coco_tiny160", "coco_mini", "coco_tiny100", "coco_tiny38", "coco_person"}),
    "salient": frozenset({"duts_tr", "duts_te", "ecssd"}),
}
GROUP_SHARES: Mapping[str, float] = {"bsds500": 0.18, "coco": 0.22, "salient": 0.21}
"""Shares of whole groups of sources; the rest is spread over the other sources.

BSDS500 has many nested regions a photo, which teach what an ambiguous click can mean, but few of them are objects. COCO
has everyday objects in their surroundings. Salient objects have clean outlines and a huge variety: with three times the
share that their number gives them, the masks of clicks gained 2.7 points of IoU in 50 minutes of training.
"""
SOURCE_FACTORS: Mapping[str, float] = {
    # Clean outlines of whole scenes, and of objects that move.
    "planar": 2.0, "davis": 1.5,
    # Narrow subjects, plain backgrounds, or noisy outlines.
    "railvehicle": 0.3, "mug": 0.3, "feet": 0.3, "smallitems": 0.3, "wbc": 0.3, "brainmri": 0.3, "coral": 0.3,
    "labelmefacade": 0.2, "magnetictile": 0.4, "solarpanel": 0.4, "corrosion": 0.5, "carparts": 0.6,
}  # fmt: skip
KIND_FACTORS: Mapping[str, float] = {"stuff": 0.5}
SINGLE_VOTE_FACTOR = 0.4
"""Factor of a region that only one of several annotators drew; the others disagreed with it."""
VOTED_SOURCES = frozenset({"bsds500"})
MIN_PHOTOS_FOR_SHARES = 200
"""Number of photos below which every photo and mask counts alike, since a small data set is hand-picked."""


def weights(
    records: Sequence[PhotoRecord], *, objects_bias: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the sampling weights of photos and masks.

    Args:
        records: N photos with M masks in all.
        objects_bias: Factor of masks of the kind "object", against the other masks of their photo.

    Returns:
        Weights of the photos (N,), of sum 1, and of their masks (M,), photo by photo.
    """
    is_small = len(records) < MIN_PHOTOS_FOR_SHARES
    photos = Counter("" if is_small else record.source for record in records)
    shares = source_shares(photos)
    photo_weights, mask_weights = [], []
    for record in records:
        source = "" if is_small else record.source
        photo_weights.append(shares[source] / photos[source])
        for mask in record.masks:
            weight = 1.0 if is_small else _mask_weight(source, mask.kind, mask.votes)
            mask_weights.append(weight * (objects_bias if mask.kind == "object" else 1.0))
    return np.array(photo_weights, np.float32), np.array(mask_weights, np.float32)


def source_shares(photos: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each source, of sum 1, from its number of photos.

    Inside a group the share is proportional to the number. Outside it is proportional to the root of the number: large
    sources count more, but small ones still count.
    """
    weight: dict[str, float] = {}
    share_of_group: dict[str, float] = {}
    for source, count in photos.items():
        group = _group(source)
        weight[source] = count if group else math.sqrt(count) * SOURCE_FACTORS.get(source, 1.0)
        share_of_group[group] = GROUP_SHARES.get(group, 0.0)
    if "" in share_of_group:
        share_of_group[""] = 1.0 - sum(share_of_group.values())
    total = sum(share_of_group.values())
    weight_of_group = dict.fromkeys(share_of_group, 0.0)
    for source, value in weight.items():
        weight_of_group[_group(source)] += value
    return {
        source: share_of_group[_group(source)] / total * value / weight_of_group[_group(source)]
        for source, value in weight.items()
    }


def _group(source: str) -> str:
    """Return the group of a source; "" for sources outside all groups."""
    return next((name for name, sources in GROUPS.items() if source in sources), "")


def _mask_weight(source: str, kind: str, votes: int) -> float:
    factor = KIND_FACTORS.get(kind, 1.0)
    return factor * SINGLE_VOTE_FACTOR if source in VOTED_SOURCES and votes < 2 else factor
