"""The batchers of encoders and decoders: their calls, and the items that share a call.

All models share both queues, so that bounds and fairness hold over all models. Encoding and decoding have separate
queues and threads, so that uploads do not delay prompts. The threads of the encoders have a low priority, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import StateArrays
from service.inference.backends.prompt_decoders import Decoded
from service.inference.backends.runtime import Runtime
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.thread_priority import lower_thread_priority
from service.sam.embedding import HighResMaps, Tokens
from service.sam.everything.selection import MaskSelection, SelectedMasks
from service.sam.frame import Frame
from service.sam.granularity import Proposals
from service.sam.int8_tokens import Scales
from service.sam.number_format import EmbeddingDtype, rounded
from service.sam.prompts import POSITIVE, Prompt, decoder_inputs
from service.telemetry.metrics import Metrics

EncoderInput = NDArray[np.float32]  # (3, S, S), where S is the manifest's image_size


@dataclass(frozen=True, slots=True, eq=False)
class EncodeItem:
    """An image for the encoder. Images for different models share no call.

    Args:
        runtime: Model that encodes.
        encoder_input: Image in the model's frame, (3, S, S).
    """

    runtime: Runtime
    encoder_input: EncoderInput


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The encoder's answer for one image, see `Encoded`, rounded to the number format of the caches."""

    tokens: Tokens
    proposals: Proposals | None
    high_res: HighResMaps | None
    scales: Scales | None = None


class MaskStates:
    """Image states for prompts with a mask, 8 MiB each, prepared when the decoder takes the prompts and not before.

    Items in the queue then hold only the masks, however many there are.

    Args:
        prepare: Function that prepares the states, called once by the thread that decodes.
    """

    def __init__(self, prepare: Callable[[], StateArrays]) -> None:
        self._prepare = prepare
        self.took_s = 0.0

    def arrays(self) -> StateArrays:
        """Prepare and return the states."""
        started = perf_counter()
        arrays = self._prepare()
        self.took_s = perf_counter() - started
        return arrays


@dataclass(frozen=True, slots=True)
class DecodeItem:
    """Prompts for one decoder call.

    Items are grouped by the object `state`, which belongs to one model. States of prompts with masks are an object of
    their own and share no call.

    Args:
        runtime: Model that decodes.
        state: Image state of S = 1, or of one for each prompt.
        prompts: Prompts on the image.
        frame: Image in the frame of prompts and masks.
        shares_call: Whether the item may share a call with others on its state. The native decoder takes prompts one
            by one: the first prompt of a batch would only wait for the last one.
    """

    runtime: Runtime
    state: StateArrays | MaskStates
    prompts: Sequence[Prompt]
    frame: Frame
    shares_call: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class GridItem:
    """Points of a grid for one decoder call, each of them a prompt of its own. Items share no call.

    Args:
        runtime: Model that decodes.
        state: Image state of S = 1.
        points: Points, (P, 2) as x, y in pixels of the part of the image that the state shows.
        frame: That part in the frame of prompts and masks.
        selection: Masks that are wanted.
    """

    runtime: Runtime
    state: StateArrays
    points: NDArray[np.float64]
    frame: Frame
    selection: MaskSelection


def encode_batcher(
    *, dtype: EmbeddingDtype, max_batch_size: int, max_queue_size: int, metrics: Metrics
) -> DynamicBatcher[EncodeItem, EncodedFrame]:
    """Return the batcher of the encoders. It makes one call at a time, with all threads of its session.

    Args:
        dtype: Number format to which tokens and maps are rounded, see `service.sam.number_format.rounded`.
        max_batch_size: Largest number of images in one call.
        max_queue_size: Largest number of images that wait.
        metrics: Metrics of the process.
    """

    def run(items: Sequence[EncodeItem], _threads: int) -> Sequence[EncodedFrame]:
        images = [item.encoder_input for item in items]
        encoded = items[0].runtime.encode(images[0][None] if len(images) == 1 else np.stack(images))
        answers = []
        for tokens, proposals, maps in zip(encoded.tokens, encoded.proposals, encoded.high_res, strict=True):
            # Copies in any case: a view would keep the arrays of the whole batch in memory.
            kept = rounded(tokens, maps, dtype)
            answers.append(EncodedFrame(kept.tokens, proposals, kept.high_res, kept.scales))
        return answers

    return DynamicBatcher(
        "encode",
        run,
        group=lambda item: id(item.runtime),
        size=lambda _: 1,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        calls=1,
        threads=1,
        metrics=metrics,
        initializer=lower_thread_priority,
    )


def decode_batcher(
    *,
    max_batch_size: int,
    max_queue_size: int,
    calls: int,
    threads: int,
    finishers: int,
    metrics: Metrics,
) -> DynamicBatcher[DecodeItem, Decoded]:
    """Return the batcher of the decoders. Items on the same image state share a call, padded with absent tokens.

    Args:
        max_batch_size: Largest number of prompts in one call.
        max_queue_size: Largest number of items that wait.
        calls: Number of calls that run at the same time.
        threads: Computing threads that the calls share.
        finishers: Worker threads that write answers while others decode.
        metrics: Metrics of the process.
    """

    def run(items: Sequence[DecodeItem], threads: int) -> Sequence[Decoded]:
        prompts = [prompt for item in items for prompt in item.prompts]
        state, runtime = items[0].state, items[0].runtime
        points, labels = decoder_inputs(prompts, items[0].frame, pads_boxes=runtime.manifest.pads_boxes)
        arrays = state.arrays() if isinstance(state, MaskStates) else state
        decoded = runtime.decode(arrays, points, labels, threads=threads)
        ends = accumulate(len(item.prompts) for item in items)
        return [decoded.rows(end - len(item.prompts), end) for item, end in zip(items, ends, strict=True)]

    return DynamicBatcher(
        "decode",
        run,
        group=lambda item: id(item.state if item.shares_call else item),
        size=lambda item: len(item.prompts),
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        calls=calls,
        threads=threads,
        finishers=finishers,
        metrics=metrics,
    )


def everything_batcher(*, max_queue_size: int, calls: int, metrics: Metrics) -> DynamicBatcher[GridItem, SelectedMasks]:
    """Return the batcher for the points of grids. Each call has one thread of low priority, so that prompts come first.

    Args:
        max_queue_size: Largest number of requests that wait.
        calls: Number of calls that run at the same time.
        metrics: Metrics of the process.
    """

    def run(items: Sequence[GridItem], _threads: int) -> Sequence[SelectedMasks]:
        return [_decoded_grid(item) for item in items]

    return DynamicBatcher(
        "everything",
        run,
        group=id,
        size=lambda _: 1,
        max_batch_size=1,
        max_queue_size=max_queue_size,
        calls=calls,
        threads=calls,
        threads_per_call=1,
        metrics=metrics,
        initializer=lower_thread_priority,
    )


def _decoded_grid(item: GridItem) -> SelectedMasks:
    label = np.array([POSITIVE], np.int64)
    prompts = [Prompt(point[np.newaxis], label) for point in item.points]
    points, labels = decoder_inputs(prompts, item.frame)
    return item.runtime.decode_selected(item.state, points, labels, item.selection, threads=1)
