"""The two lanes of a process: encoding and decoding have separate queues and threads, so that a burst of uploads
does not stall clicks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.inference.batching import DynamicBatcher
from service.inference.runtime import Decoded, Runtime, StateArrays, pad_and_join
from service.metrics import Metrics

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodeItem:
    """Prompts for one decoder call: points (P, N, 2) and labels (P, N) on a state of S = 1 or S = P.

    A state of several prompts is an object of its own, so grouping by the object never mixes them.
    """

    state: StateArrays
    points: Floats
    labels: NDArray[np.int64]


def encode_lane(
    runtime: Runtime, *, max_batch_size: int, max_queue_size: int, metrics: Metrics
) -> DynamicBatcher[Floats, Floats]:
    """Frames (3, 1024, 1024) → tokens (4096, 256)."""

    def run(frames: Sequence[Floats]) -> Sequence[Floats]:
        tokens = runtime.encode(frames[0][None] if len(frames) == 1 else np.stack(frames))
        return list(tokens)

    return DynamicBatcher(
        "encode",
        run,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        workers=1,
        metrics=metrics,
    )


def decode_lane(
    runtime: Runtime, *, max_batch_size: int, max_queue_size: int, workers: int, metrics: Metrics
) -> DynamicBatcher[DecodeItem, Decoded]:
    """Prompts → masks. Items on the same image state share a call; padding is absent and changes nothing."""

    def run(items: Sequence[DecodeItem]) -> Sequence[Decoded]:
        points, labels = pad_and_join([(item.points, item.labels) for item in items])
        decoded = runtime.decode(items[0].state, points, labels)
        ends = np.cumsum([len(item.labels) for item in items])
        return [decoded.rows(end - len(item.labels), end) for item, end in zip(items, ends, strict=True)]

    return DynamicBatcher(
        "decode",
        run,
        group=lambda item: id(item.state),
        size=lambda item: len(item.labels),
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        workers=workers,
        metrics=metrics,
    )
