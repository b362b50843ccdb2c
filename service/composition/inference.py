"""The queues and threads that all models share, made from the settings."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from service.inference.backends.prompt_decoders import Decoded
from service.inference.model_batchers import (
    DecodeItem,
    EncodedFrame,
    EncodeItem,
    GridItem,
    decode_batcher,
    encode_batcher,
    everything_batcher,
)
from service.inference.scheduling.admission import OnePerCaller
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.executors import TimedExecutor
from service.process import available_cpus
from service.sam.everything.selection import SelectedMasks
from service.settings import Settings
from service.telemetry.metrics import Metrics

# A task that runs after its answer holds an embedding of 2 to 16 MiB, or the masks of a request, 128 KiB each.
MAX_BACKGROUND_TASKS = 32
# Bound on each part of the shutdown, in seconds.
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Inference:
    """The queues and threads of all models. So bounds and fairness between callers hold over all models.

    Args:
        encode_batcher: Queue of images for the encoders.
        decode_batcher: Queue of prompts for the decoders.
        everything_batcher: Queue of the grids of everything mode, of lower priority.
        prompt_executor: Threads for the blocking work of small requests.
        upload_executor: Threads that hash and decode images, of lower priority.
        everything_executor: Threads that filter and write the masks of everything mode, of lower priority.
        everything_permits: Permits of everything requests.
        background: Work that ends after the answers.
    """

    encode_batcher: DynamicBatcher[EncodeItem, EncodedFrame]
    decode_batcher: DynamicBatcher[DecodeItem, Decoded]
    everything_batcher: DynamicBatcher[GridItem, SelectedMasks]
    prompt_executor: TimedExecutor
    upload_executor: TimedExecutor
    everything_executor: TimedExecutor
    everything_permits: OnePerCaller
    background: BackgroundWork


def build_inference(
    settings: Settings,
    *,
    has_native_decoder: bool,
    prompt_executor: TimedExecutor,
    upload_executor: TimedExecutor,
    metrics: Metrics,
    closing: AsyncExitStack,
) -> Inference:
    """Return the queues and threads of all models.

    Args:
        settings: Settings of the service.
        has_native_decoder: Whether a model decodes by the native decoder, which makes several calls at a time. It is
            decided at the start and not by a reload.
        prompt_executor: Threads for the blocking work of small requests.
        upload_executor: Threads that hash and decode images, of lower priority.
        metrics: Metrics of the process.
        closing: Stack that gets what has to be closed at the end.
    """
    threads = worker_threads(settings)
    background = BackgroundWork(MAX_BACKGROUND_TASKS, metrics)
    closing.push_async_callback(background.aclose, CLOSE_TIMEOUT_S)
    decoding = decode_batcher(
        max_batch_size=settings.max_decode_batch,
        max_queue_size=settings.max_decode_queue,
        calls=settings.decode_workers or (threads if has_native_decoder else 1),
        threads=threads,
        finishers=threads + 1,
        metrics=metrics,
    )
    closing.push_async_callback(decoding.aclose)
    encoding = encode_batcher(
        dtype=settings.embedding_dtype,
        max_batch_size=settings.max_encode_batch,
        max_queue_size=settings.max_encode_queue,
        metrics=metrics,
    )
    closing.push_async_callback(encoding.aclose)
    everything_executor = TimedExecutor("everything", threads, low_priority=True)
    closing.callback(everything_executor.close)
    everything = everything_batcher(
        calls=threads if has_native_decoder else 1, max_queue_size=settings.everything_at_once, metrics=metrics
    )
    closing.push_async_callback(everything.aclose)
    return Inference(
        encode_batcher=encoding,
        decode_batcher=decoding,
        everything_batcher=everything,
        prompt_executor=prompt_executor,
        upload_executor=upload_executor,
        everything_executor=everything_executor,
        everything_permits=OnePerCaller(settings.everything_at_once, "everything requests", "/segment/everything"),
        background=background,
    )


def worker_threads(settings: Settings) -> int:
    """Return the number of threads that compute.

    Args:
        settings: Settings of the service; 0 threads there follows the CPU limit of the process.
    """
    return settings.threads or available_cpus()
