"""How often a photo and a mask are taken: by source, not by number of photos, since a few sources hold most of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotations import PhotoRecord

# Shares of whole groups, as the notes on the data advise; what is left is spread over the other sources.
GROUP_SHARES: Mapping[str, float] = {"bsds500": 0.25, "coco": 0.25}
# Narrow subjects, plain grounds, or noisy outlines.
SOURCE_FACTORS: Mapping[str, float] = {
    "railvehicle": 0.3, "mug": 0.3, "feet": 0.3, "smallitems": 0.3, "wbc": 0.3, "brainmri": 0.3,
    "coral": 0.3, "labelmefacade": 0.4, "magnetictile": 0.4, "solarpanel": 0.4, "corrosion": 0.5, "carparts": 0.6,
}  # fmt: skip
KIND_FACTORS: Mapping[str, float] = {"stuff": 0.5}
LONELY_FACTOR = 0.4
"""A region that one of several annotators drew; the others saw something else there."""
VOTED_SOURCES = frozenset({"bsds500"})


def weights(records: Sequence[PhotoRecord]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of the photos (N,), of sum 1, and of their masks (M,), photo by photo."""
    photos = Counter(record.source for record in records)
    shares = source_shares(photos)
    photo_weights = [shares[record.source] / photos[record.source] for record in records]
    mask_weights = [_mask_weight(record.source, mask.kind, mask.votes) for record in records for mask in record.masks]
    return np.array(photo_weights, np.float32), np.array(mask_weights, np.float32)


def source_shares(photos: Mapping[str, int]) -> dict[str, float]:
    """Share of each source, of sum 1, from its number of photos.

    Inside a group the share goes by number. Outside it goes by the root of the number: large sources count more, but a
    small one is not lost.
    """
    pull: dict[str, float] = {}
    share_of_group: dict[str, float] = {}
    for source, count in photos.items():
        group = _group(source)
        if group in GROUP_SHARES:
            pull[source] = count
        else:
            pull[source] = math.sqrt(count) * SOURCE_FACTORS.get(source, 1.0)
        share_of_group[group] = GROUP_SHARES.get(group, 0.0)
    rest = 1.0 - sum(share_of_group.values())
    if "" in share_of_group:
        share_of_group[""] = rest
    total = sum(share_of_group.values())
    pull_of_group = dict.fromkeys(share_of_group, 0.0)
    for source, value in pull.items():
        pull_of_group[_group(source)] += value
    return {
        source: share_of_group[_group(source)] / total * value / pull_of_group[_group(source)]
        for source, value in pull.items()
    }


def _group(source: str) -> str:
    """The group whose share is fixed, "" for all others."""
    return next((name for name in GROUP_SHARES if source.startswith(name)), "")


def _mask_weight(source: str, kind: str, votes: int) -> float:
    factor = KIND_FACTORS.get(kind, 1.0)
    return factor * LONELY_FACTOR if source in VOTED_SOURCES and votes < 2 else factor
