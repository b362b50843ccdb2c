"""The model, its queues and its use cases, made from the settings."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from service.composition.cache import Cache
from service.inference.backends.prompt_decoders import Decoded
from service.inference.backends.runtime import Runtime
from service.inference.embed import Embedder
from service.inference.image_states import ImageStates
from service.inference.model_batchers import DecodeItem, EncodedFrame, Frame, decode_batcher, encode_batcher
from service.inference.refinement_masks import RefinementMasks
from service.inference.scheduling.background import BackgroundWork
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segment import Segmenter
from service.inference.segmentation_builder import MaskFunctions
from service.native.masks import native_masks
from service.process import available_cpus
from service.sam.enlarged_pieces import filter_enlarged
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import binary_mask
from service.settings import Settings
from service.telemetry.metrics import Metrics

# A task that runs after its answer holds an embedding of 2 to 4 MiB, or the masks of a request, 128 KiB each.
MAX_BACKGROUND_TASKS = 32
# Bound on each part of the shutdown, in seconds.
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Inference:
    """The model, its queues, and the use cases over them.

    Args:
        runtime: Loaded model with its backends.
        encode_batcher: Queue of images for the encoder.
        decode_batcher: Queue of prompts for the decoder.
        prompt_executor: Threads for the blocking work of small requests.
        upload_executor: Threads that hash and decode images, of lower priority.
        states: Image states in memory and in Redis.
        embedder: Use cases of embedding.
        segmenter: Use case of segmenting.
    """

    runtime: Runtime
    encode_batcher: DynamicBatcher[Frame, EncodedFrame]
    decode_batcher: DynamicBatcher[DecodeItem, Decoded]
    prompt_executor: TimedExecutor
    states: ImageStates
    embedder: Embedder
    segmenter: Segmenter


def build_inference(
    settings: Settings,
    runtime: Runtime,
    cache: Cache,
    *,
    prompt_executor: TimedExecutor,
    upload_executor: TimedExecutor,
    metrics: Metrics,
    closing: AsyncExitStack,
) -> Inference:
    """Return the queues of the model and the use cases over them and the caches.

    Args:
        settings: Settings of the service.
        runtime: Loaded model with its backends.
        cache: Caches in memory and in Redis.
        prompt_executor: Threads for the blocking work of small requests.
        metrics: Metrics of the process.
        closing: Stack that gets what has to be closed at the end.
    """
    threads = worker_threads(settings)
    background = BackgroundWork(MAX_BACKGROUND_TASKS, metrics)
    closing.push_async_callback(background.aclose, CLOSE_TIMEOUT_S)
    is_native = runtime.decoder.startswith("native")
    # The native decoder takes prompts one by one: the first prompt of a batch would only wait for the last one.
    max_decode_batch = 1 if is_native else settings.max_decode_batch
    decoding = decode_batcher(
        runtime,
        max_batch_size=max_decode_batch,
        max_queue_size=settings.max_decode_queue,
        calls=settings.decode_workers or (runtime.threads if is_native else 1),
        threads=runtime.threads,
        finishers=threads + 1,
        metrics=metrics,
    )
    closing.push_async_callback(decoding.aclose)
    encoding = encode_batcher(
        runtime,
        dtype=settings.embedding_dtype,
        max_batch_size=settings.max_encode_batch,
        max_queue_size=settings.max_encode_queue,
        metrics=metrics,
    )
    closing.push_async_callback(encoding.aclose)
    states = ImageStates(
        cache.states,
        cache.redis.embeddings,
        deletions=cache.redis.deletions,
        recent_deletions=cache.recent_deletions,
        runtime=runtime,
        executor=prompt_executor,
        background=background,
        renew_every_s=settings.cache_ttl_s / 10,
    )
    embedder = Embedder(
        runtime=runtime,
        batcher=encoding,
        states=states,
        shared_flight=cache.redis.flight,
        recent_deletions=cache.recent_deletions,
        executor=upload_executor,
        dtype=settings.embedding_dtype,
        max_pixels=settings.max_image_pixels,
    )
    segmenter = Segmenter(
        runtime=runtime,
        batcher=decoding,
        states=states,
        masks=RefinementMasks(
            cache.masks,
            cache.redis.masks,
            background,
            cache.recent_deletions,
            store_timeout_s=settings.mask_store_timeout_s,
        ),
        executor=prompt_executor,
        dtype=settings.embedding_dtype,
        max_decode_batch=max_decode_batch,
        mask_functions=_mask_functions(settings),
    )
    return Inference(runtime, encoding, decoding, prompt_executor, states, embedder, segmenter)


def worker_threads(settings: Settings) -> int:
    """Return the number of threads that compute.

    Args:
        settings: Settings of the service; 0 threads there follows the CPU limit of the process.
    """
    return settings.threads or available_cpus()


def _mask_functions(settings: Settings) -> MaskFunctions:
    """Return the C functions that make masks; those in NumPy without the C library or with the ONNX decoder."""
    native = None if settings.decoder == "onnx" else native_masks()
    if native is None:
        return MaskFunctions(binary_mask, filter_pieces, filter_enlarged)
    return MaskFunctions(native.binary_mask, native.filter_pieces, native.filter_enlarged)
