"""The two lanes of a process: encoding and decoding have separate queues and threads, so that a burst of uploads
does not stall clicks; encoding also gives way where both want the processors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.runtime import Decoded, Runtime, StateArrays
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.thread_priority import lower_thread_priority
from service.sam.float16 import as_float16
from service.sam.granularity import Proposals
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.transforms import Size
from service.telemetry.metrics import Metrics

Frame = NDArray[np.float32]  # (3, 1024, 1024)
Tokens = NDArray[np.float16] | NDArray[np.float32]  # (4096, 256)
EmbeddingDtype = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """What the encoder makes of one frame."""

    tokens: Tokens
    proposals: Proposals | None


class MaskStates:
    """Image states of prompts with a mask, one for each, 8 MiB: made when their turn has come and not before.

    What waits in the queue so holds the masks alone, however many there are.

    Args:
        prepare: makes them; called once, by the thread that decodes.
    """

    def __init__(self, prepare: Callable[[], StateArrays]) -> None:
        self._prepare = prepare
        self.took_s = 0.0

    def arrays(self) -> StateArrays:
        """The states."""
        started = perf_counter()
        made = self._prepare()
        self.took_s = perf_counter() - started
        return made


@dataclass(frozen=True, slots=True)
class DecodeItem:
    """Prompts for one decoder call, on an image state of S = 1 or one for each prompt.

    States of several prompts are an object of their own, so grouping by the object never mixes them.
    """

    state: StateArrays | MaskStates
    prompts: Sequence[Prompt]
    original_size: Size


def encode_batcher(
    runtime: Runtime, *, dtype: EmbeddingDtype, max_batch_size: int, max_queue_size: int, metrics: Metrics
) -> DynamicBatcher[Frame, EncodedFrame]:
    """Frames → tokens, rounded to `dtype`, and proposals. One call at a time, with all threads of its session."""

    def run(frames: Sequence[Frame], _threads: int) -> Sequence[EncodedFrame]:
        encoded = runtime.encode(frames[0][None] if len(frames) == 1 else np.stack(frames))
        # A copy in any case: a view would keep the tokens of the whole batch alive.
        return [
            EncodedFrame(as_float16(tokens) if dtype == "float16" else tokens.copy(), proposals)
            for tokens, proposals in zip(encoded.tokens, encoded.proposals, strict=True)
        ]

    return DynamicBatcher(
        "encode",
        run,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        calls=1,
        threads=1,
        metrics=metrics,
        initializer=lower_thread_priority,
    )


def decode_batcher(
    runtime: Runtime,
    *,
    max_batch_size: int,
    max_queue_size: int,
    calls: int,
    threads: int,
    finishers: int,
    metrics: Metrics,
) -> DynamicBatcher[DecodeItem, Decoded]:
    """Prompts → masks. Items on the same image state share a call; absent tokens fill up and change nothing."""

    def run(items: Sequence[DecodeItem], threads: int) -> Sequence[Decoded]:
        prompts = [prompt for item in items for prompt in item.prompts]
        points, labels = decoder_inputs(prompts, items[0].original_size)
        state = items[0].state
        arrays = state.arrays() if isinstance(state, MaskStates) else state
        decoded = runtime.decode(arrays, points, labels, threads=threads)
        ends = accumulate(len(item.prompts) for item in items)
        return [decoded.rows(end - len(item.prompts), end) for item, end in zip(items, ends, strict=True)]

    return DynamicBatcher(
        "decode",
        run,
        group=lambda item: id(item.state),
        size=lambda item: len(item.prompts),
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        calls=calls,
        threads=threads,
        finishers=finishers,
        metrics=metrics,
    )
