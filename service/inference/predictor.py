"""The two use cases: embed a picture, cut objects out of an embedded one."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.cache.base import Cache
from service.errors import CacheUnavailable
from service.inference.background import BackgroundWork
from service.inference.batching import DynamicBatcher
from service.inference.deadline import Deadline
from service.inference.lanes import DecodeItem
from service.inference.refinement import LowResMask, RefinementMasks
from service.inference.runtime import Decoded, ImageState, Runtime, StateArrays
from service.inference.singleflight import Lease, SharedFlight, SingleFlight
from service.inference.states import ImageStates
from service.metrics import Metrics, Stages
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash, mask_id, mask_key
from service.sam.formats import to_float16
from service.sam.images import decode_picture
from service.sam.masks import BinaryMask, Multimask, binary_mask, candidates, rank
from service.sam.prompts import Prompt, check_prompt, decoder_inputs
from service.sam.transforms import Size, preprocess

Result = TypeVar("Result")
EmbeddingDtype = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """Answer of `Predictor.embed`; `cached` is the tier that had the embedding, None when it was computed now."""

    image_hash: str
    original_size: Size
    cached: Literal["memory", "redis"] | None


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt as it comes from outside: the mask to refine may still be the id of an earlier one."""

    prompt: Prompt
    mask_id: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentedMask:
    """One mask of the answer."""

    mask: BinaryMask
    mask_logits: LowResMask  # (256, 256)
    mask_id: str
    stability: float  # 0..1
    predicted_iou: float


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """Answer of `Predictor.segment`: for each query its masks, best first."""

    original_size: Size
    results: list[list[SegmentedMask]]


Render = Callable[[SegmentResult, Deadline], Result]
"""Writes an answer in a worker thread; checks the deadline between masks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the work, from the settings."""

    max_pixels: int
    max_decode_batch: int
    embed_timeout_s: float
    segment_timeout_s: float


class Predictor:
    """Both use cases over one runtime and its caches; no state between requests but the caches.

    Args:
        states: image states, prepared.
        shared: embeddings of all replicas; None without Redis.
        flight: one encode across replicas; None without Redis.
        masks: what earlier answers can be refined from.
        workers: threads for pictures, masks and rendering.
        dtype: what tokens are rounded to before anything else sees them, so that every tier and every replica
            decodes the same numbers.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        encode_lane: DynamicBatcher[NDArray[np.float32], NDArray[np.float32]],
        decode_lane: DynamicBatcher[DecodeItem, Decoded],
        states: ImageStates,
        shared: Cache[ImageEmbedding] | None,
        flight: SharedFlight[ImageEmbedding] | None,
        masks: RefinementMasks,
        background: BackgroundWork,
        workers: Executor,
        dtype: EmbeddingDtype,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.runtime = runtime
        self._encode_lane = encode_lane
        self._decode_lane = decode_lane
        self._states = states
        self._shared = shared
        self._flight = flight
        self._masks = masks
        self._background = background
        self._workers = workers
        self._dtype = dtype
        self._limits = limits
        self._metrics = metrics
        self._fingerprint = runtime.manifest.fingerprint
        self._embeds: SingleFlight[EmbedResult] = SingleFlight()

    async def embed(self, data: bytes, stages: Stages) -> EmbedResult:
        """Leave the picture's embedding in the caches.

        1. hash the bytes, 2. ask the caches before decoding anything, 3. let one caller a picture compute,
        4. decode, resize, encode, prepare, 5. keep in memory at once and in Redis behind the answer.

        Raises:
            UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio: the picture.
            Overloaded, DeadlineExceeded, NotReady: the server.
        """
        async with Deadline(self._limits.embed_timeout_s, "Embedding the picture").bound():
            with stages.measure("hash"):
                hashed = await self.run_in_worker(image_hash, data)
            key = self._key(hashed)
            state = self._states.peek(key)
            if state is not None:
                return EmbedResult(hashed, state.embedding.original_size, "memory")
            return await self._embeds.run(key, lambda: self._embed_missing(key, hashed, data, stages))

    async def segment(
        self, hashed: str, queries: Sequence[Query], multimask: Multimask, render: Render[Result], stages: Stages
    ) -> Result:
        """Masks for prompts on an embedded picture, as `render` writes them; the picture itself is never needed.

        1. find the image state, 2. fetch the masks to refine, 3. put the prompts into the frame, 4. decode,
        5. choose masks on the low-resolution logits and enlarge those alone, 6. render, in the same turn of a worker,
        7. keep the masks for refinement.

        Raises:
            EmbeddingNotFound, MaskNotFound, PromptOutsideImage: the request.
            CacheUnavailable, Overloaded, DeadlineExceeded, NotReady: the server.
        """
        deadline = Deadline(self._limits.segment_timeout_s, "Segmenting")
        async with deadline.bound():
            key = self._key(hashed)
            state = await self._states.find(key, stages)
            size = state.embedding.original_size
            prompts = [await self._resolve(query, hashed, stages) for query in queries]
            for prompt in prompts:
                check_prompt(prompt, size)
            decoded = await self._decode(state, prompts, stages)

            def finish() -> tuple[SegmentResult, Result]:
                with stages.measure("postprocess"):
                    result = SegmentResult(size, _choose_masks(key, prompts, decoded, multimask, size, deadline))
                with stages.measure("serialize"):
                    return result, render(result, deadline)

            result, rendered = await self.run_in_worker(finish)
            await self._masks.keep(
                [(self._mask_key(hashed, mask.mask_id), mask.mask_logits) for masks in result.results for mask in masks]
            )
        return rendered

    async def contains(self, hashed: str) -> Literal["memory", "redis"] | None:
        """The tier that has the picture's embedding; nothing is loaded.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        return await self._states.contains(self._key(hashed))

    async def delete(self, hashed: str) -> bool:
        """Forget the picture in this process and in Redis; whether there was anything.

        Raises:
            CacheUnavailable: Redis may still have it.
        """
        return await self._states.delete(self._key(hashed))

    async def run_in_worker(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run blocking work off the event loop, in the threads for pictures, masks and rendering."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    async def _embed_missing(self, key: str, hashed: str, data: bytes, stages: Stages) -> EmbedResult:
        """The peek into memory has missed: Redis, another replica, or our own encoder."""
        try:
            found = await self._states.look_up(key, stages)
        except CacheUnavailable:
            found = None
        if found is not None:
            state, tier = found
            return EmbedResult(hashed, state.embedding.original_size, tier)
        lease: Lease | None = None
        if self._flight is not None:
            claim = await self._flight.claim(key)
            if not isinstance(claim, Lease):
                await self._states.prepare(key, claim, stages)
                return EmbedResult(hashed, claim.original_size, "redis")
            lease = claim

        try:
            embedding = await self._encode(data, stages)
            await self._states.prepare(key, embedding, stages)
        except BaseException:
            if lease is not None:  # let another replica, or a repetition, start at once
                await lease.release()
            raise
        await self._share_behind_the_answer(key, embedding, lease)
        return EmbedResult(hashed, embedding.original_size, None)

    async def _encode(self, data: bytes, stages: Stages) -> ImageEmbedding:
        manifest = self.runtime.manifest

        def read() -> tuple[NDArray[np.float32], Size]:
            with stages.measure("decode_image"):
                picture = decode_picture(data, max_pixels=self._limits.max_pixels)
            with stages.measure("preprocess"):
                frame = preprocess(picture, manifest.mean, manifest.std, manifest.image_size)
            return frame, (picture.height, picture.width)

        frame, original_size = await self.run_in_worker(read)
        done = await self._encode_lane.submit(frame)
        stages.add("queue", done.queue_s)
        stages.add("encode", done.run_s)
        # A copy in any case: a view would keep the tokens of the whole batch alive.
        return ImageEmbedding(done.result.astype(self._dtype), original_size)

    async def _share_behind_the_answer(self, key: str, embedding: ImageEmbedding, lease: Lease | None) -> None:
        if self._shared is None:
            return
        if not self._background.start(self._share(self._shared, key, embedding, lease)) and lease is not None:
            await lease.release()

    async def _share(
        self, shared: Cache[ImageEmbedding], key: str, embedding: ImageEmbedding, lease: Lease | None
    ) -> None:
        """Store in Redis, then let waiting replicas in."""
        try:
            with self._metrics.stages().measure("cache_put"):
                await shared.put(key, embedding)
        except CacheUnavailable:
            pass  # memory has it; the breaker and the stage's histogram tell the operator
        finally:
            if lease is not None:
                await lease.release()

    async def _resolve(self, query: Query, hashed: str, stages: Stages) -> Prompt:
        if query.mask_id is None:
            return query.prompt
        with stages.measure("cache_get"):
            mask_logits = await self._masks.find(self._mask_key(hashed, query.mask_id))
        return replace(query.prompt, mask_logits=mask_logits)

    async def _decode(self, state: ImageState, prompts: Sequence[Prompt], stages: Stages) -> list[Decoded]:
        """An answer of P = 1 for each prompt, in order. A prompt with a mask needs an image state of its own."""
        answers: dict[int, Decoded] = {}
        for masked in (False, True):
            group = [i for i, prompt in enumerate(prompts) if (prompt.mask_logits is not None) is masked]
            for start in range(0, len(group), self._limits.max_decode_batch):
                chunk = group[start : start + self._limits.max_decode_batch]
                some = [prompts[i] for i in chunk]
                arrays = await self._prepare_masks(state, some, stages) if masked else state.arrays
                points, labels = decoder_inputs(some, state.embedding.original_size)
                done = await self._decode_lane.submit(DecodeItem(arrays, points, labels))
                stages.add("queue", done.queue_s)
                stages.add("decode", done.run_s)
                answers.update({i: done.result.rows(row, row + 1) for row, i in enumerate(chunk)})
        return [answers[i] for i in range(len(prompts))]

    async def _prepare_masks(self, state: ImageState, prompts: Sequence[Prompt], stages: Stages) -> StateArrays:
        mask_logits = np.stack([prompt.mask_logits for prompt in prompts if prompt.mask_logits is not None])
        with stages.measure("prepare"):
            return await self.run_in_worker(self.runtime.prepare_masks, state.embedding, mask_logits)

    def _key(self, hashed: str) -> str:
        return embedding_key(hashed, self._fingerprint, self._dtype)

    def _mask_key(self, hashed: str, identity: str) -> str:
        return mask_key(hashed, identity, self._fingerprint, self._dtype)


def _choose_masks(
    key: str,
    prompts: Sequence[Prompt],
    decoded: Sequence[Decoded],
    multimask: Multimask,
    original_size: Size,
    deadline: Deadline,
) -> list[list[SegmentedMask]]:
    """Choose on the low-resolution logits, then enlarge what is returned."""
    results = []
    for prompt, answer in zip(prompts, decoded, strict=True):
        masks = []
        for i in rank(answer.stability[0], candidates(multimask, prompt)):
            deadline.check()
            mask_logits = to_float16(answer.mask_logits[0, i]).astype(np.float32)
            masks.append(
                SegmentedMask(
                    mask=binary_mask(answer.mask_logits[0, i], original_size),
                    mask_logits=mask_logits,
                    mask_id=mask_id(key, mask_logits),
                    stability=float(answer.stability[0, i]),
                    predicted_iou=float(answer.iou_predictions[0, i]),
                )
            )
        results.append(masks)
    return results
