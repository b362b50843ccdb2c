"""The two use cases: embed a picture, cut objects out of an embedded one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from service.cache.recent_deletions import RecentDeletions
from service.errors import CacheUnavailable
from service.inference.backends.runtime import Decoded, ImageState, Runtime, StateArrays
from service.inference.image_states import ImageStates, Tier
from service.inference.refinement_masks import LowResMask, RefinementMasks
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.deadline import Deadline
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.fairness import ANONYMOUS, Caller
from service.inference.scheduling.model_batchers import DecodeItem, EmbeddingDtype, EncodedFrame, Frame, MaskStates
from service.inference.scheduling.singleflight import Lease, SharedFlight, SingleFlight
from service.manifest import Ranking
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash, mask_id, mask_key
from service.sam.float16 import as_float32
from service.sam.formats import to_float16
from service.sam.granularity import Box, Granularity, with_box
from service.sam.images import decode_image
from service.sam.mask_runs import MaskLibrary
from service.sam.masks import Mask, Multimask, binary_mask, candidates, rank
from service.sam.prompts import Prompt, check_prompt
from service.sam.transforms import Size, preprocess
from service.telemetry.metrics import Timings

Written = TypeVar("Written")
Finished = TypeVar("Finished")
Written_co = TypeVar("Written_co", covariant=True)


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """Answer of `Predictor.embed`; `cached` is the tier that had the embedding, None when it was computed now."""

    image_hash: str
    original_size: Size
    cached: Tier | None


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt as it comes from outside: the mask to refine may still be the id of an earlier one."""

    prompt: Prompt
    mask_id: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentedMask:
    """One mask of the answer."""

    mask: Mask
    mask_logits: LowResMask
    mask_id: str
    score: float  # 0..1, by the model's ranking rule: what masks are ordered by
    stability: float  # 0..1
    predicted_iou: float


class Renderer(Protocol[Written_co]):
    """Writes an answer mask by mask in worker threads, so that each holds one full-size mask at a time."""

    masks_per_prompt: int | None
    """Only so many of a prompt's masks, the best ones, are wanted; None: all."""

    def show_boxes(self, boxes: Sequence[Box | None]) -> None:
        """The box that each prompt got by its granularity; before any mask, and only where that was asked for."""
        ...

    def add(self, prompt: int, mask: SegmentedMask) -> None:
        """The next best mask of a prompt; prompts come in any order and from several threads, a prompt from one."""
        ...

    def finish(self, original_size: Size) -> Written_co:
        """The answer, when all masks have been added."""
        ...


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
        flight: one encode across replicas; None without Redis.
        masks: what earlier answers can be refined from.
        recent_deletions: pictures that were deleted lately.
        uploads: threads for pictures, which give way to
        clicks: threads for prompts and masks.
        drawing: makes masks faster; None where it was not built.
        dtype: what tokens are rounded to before anything else sees them, so that every tier and every replica
            decodes the same numbers.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        encode_batcher: DynamicBatcher[Frame, EncodedFrame],
        decode_batcher: DynamicBatcher[DecodeItem, Decoded],
        states: ImageStates,
        flight: SharedFlight[ImageEmbedding] | None,
        masks: RefinementMasks,
        recent_deletions: RecentDeletions,
        uploads: TimedExecutor,
        clicks: TimedExecutor,
        dtype: EmbeddingDtype,
        limits: Limits,
        drawing: MaskLibrary | None = None,
    ) -> None:
        self.runtime = runtime
        self.clicks = clicks
        self._encode_batcher = encode_batcher
        self._decode_batcher = decode_batcher
        self._states = states
        self._flight = flight
        self._masks = masks
        self._uploads = uploads
        self._dtype = dtype
        self._limits = limits
        self._drawing = drawing
        self._fingerprint = runtime.fingerprint
        self._embeds: SingleFlight[EmbedResult] = SingleFlight()
        recent_deletions.watch(self._part_from)

    async def embed(
        self, body: bytes, unwrap: Callable[[bytes], bytes], timings: Timings, *, caller: Caller = ANONYMOUS
    ) -> EmbedResult:
        """Leave the picture's embedding in the caches; when this returns, every replica can segment it.

        1. unwrap and hash the bytes, 2. ask the caches before decoding anything, 3. let one caller a picture compute,
        4. decode, resize, encode, prepare, 5. keep in memory and in Redis.

        Args:
            body: as uploaded.
            unwrap: takes the picture's bytes out of the body, in a worker thread.
            timings: of the request.
            caller: whose picture it becomes, and whose turn it takes; another namespace's is never looked for.

        Raises:
            UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio: the picture.
            Overloaded, DeadlineExceeded, NotReady: the server.
        """
        async with Deadline(self._limits.embed_timeout_s, "Embedding the picture").bound():
            data, hashed = await self._uploads.run(timings, _unwrap_and_hash, body, unwrap, timings)
            del body  # a picture in multipart would be held twice while it is encoded
            key = self._key(hashed, caller)
            state = self._states.peek(key)
            if state is not None and await self._states.ensure_shared(key, state):
                return EmbedResult(hashed, state.embedding.original_size, "memory")
            return await self._embeds.run(key, lambda: self._embed_missing(key, hashed, data, timings, caller))

    async def segment(
        self,
        hashed: str,
        queries: Sequence[Query],
        multimask: Multimask,
        renderer: Renderer[Written],
        timings: Timings,
        *,
        granularity: Granularity = "off",
        caller: Caller = ANONYMOUS,
    ) -> Written:
        """Masks for prompts on an embedded picture, as `renderer` writes them; the picture itself is never needed.

        1. find the image state, 2. fetch the masks to refine, 3. check the prompts against the picture and give clicks
        their box where that is asked for, 4. decode, and while other prompts decode 5. choose masks on the
        low-resolution logits, enlarge and write those alone, 6. keep them for refinement.

        Args:
            granularity: `auto` changes nothing for an embedding without proposals.
            caller: whose pictures and masks are looked for, and whose turn at the decoder it takes.

        Raises:
            EmbeddingNotFound, MaskNotFound, PromptOutsideImage: the request.
            CacheUnavailable, Overloaded, DeadlineExceeded, NotReady: the server.
        """
        began = monotonic()
        deadline = Deadline(self._limits.segment_timeout_s, "Segmenting")
        async with deadline.bound():
            key = self._key(hashed, caller)
            state = await self._states.find(key, timings, caller=caller.name)
            prompts = [await self._resolve(query, hashed, caller, timings, began) for query in queries]
            for prompt in prompts:
                check_prompt(prompt, state.embedding.original_size)
            if granularity == "auto":
                prompts, boxes = await self.clicks.run(timings, _with_boxes, prompts, state.embedding)
                renderer.show_boxes(boxes)
            writing = _Writing(
                key,
                state.embedding.original_size,
                prompts,
                multimask,
                self.runtime.manifest.ranking,
                renderer,
                self._drawing,
                deadline,
                timings,
            )
            written = await self._decode(state, writing, caller, timings)
            await self._masks.keep(
                key,
                [(self._mask_key(hashed, identity, caller), logits) for identity, logits in writing.kept],
                began=began,
                caller=caller.name,
            )
        return written

    async def embedding(self, hashed: str, timings: Timings, *, caller: Caller = ANONYMOUS) -> ImageEmbedding:
        """What the encoder made of a picture, for those who decode elsewhere.

        Raises:
            EmbeddingNotFound: no tier has it.
            CacheUnavailable: memory has it not, and Redis cannot be asked.
            DeadlineExceeded: Redis took too long.
        """
        async with Deadline(self._limits.segment_timeout_s, "Reading the embedding").bound():
            return await self._states.embedding(self._key(hashed, caller), timings)

    async def contains(self, hashed: str, *, caller: Caller = ANONYMOUS) -> Tier | None:
        """The tier that has the picture's embedding.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        return await self._states.contains(self._key(hashed, caller))

    async def delete(self, hashed: str, *, caller: Caller = ANONYMOUS) -> bool:
        """Forget the picture in this process and in Redis, and tell the other replicas; whether there was anything.

        Raises:
            CacheUnavailable: Redis may still have it.
            DeadlineExceeded: it is being embedded, and that took too long to wait for.
        """
        key = self._key(hashed, caller)
        async with Deadline(self._limits.embed_timeout_s, "Waiting for the picture's embedding").bound():
            await self._embeds.settle(key)  # who waits there is answered first
            return await self._states.delete(key)

    def _part_from(self, key: str) -> bool:
        """Who uploads a picture after it was deleted gets it embedded anew, also while the upload before goes on."""
        self._embeds.detach(key)
        return False

    async def _embed_missing(self, key: str, hashed: str, data: bytes, timings: Timings, caller: Caller) -> EmbedResult:
        """The peek into memory has missed: Redis, another replica, or our own encoder."""
        began = monotonic()
        mark: str | None = None
        try:
            found = await self._states.look_up(key, timings, began=began)
            if found is not None:
                state, tier = found
                return EmbedResult(hashed, state.embedding.original_size, tier)
            mark = await self._states.mark(key)
        except CacheUnavailable:
            pass  # what was deleted before is found out when Redis is told of the embedding
        lease: Lease | None = None
        if self._flight is not None:
            claim = await self._flight.claim(key)
            if not isinstance(claim, Lease):
                await self._states.prepare(key, claim, timings, began=began)
                return EmbedResult(hashed, claim.original_size, "redis")
            lease = claim
        try:
            embedding = await self._encode(data, caller, timings)
            await self._states.add(key, embedding, timings, began=began, mark=mark)
        finally:
            if lease is not None:  # whoever waits finds the value, or may compute it at once
                await lease.release()
        return EmbedResult(hashed, embedding.original_size, None)

    async def _encode(self, data: bytes, caller: Caller, timings: Timings) -> ImageEmbedding:
        manifest = self.runtime.manifest

        def read() -> tuple[Frame, Size]:
            with timings.measure("decode_image"):
                picture = decode_image(data, max_pixels=self._limits.max_pixels)
            with timings.measure("preprocess"):
                frame = preprocess(picture, manifest.mean, manifest.std, manifest.image_size)
            return frame, (picture.height, picture.width)

        frame, original_size = await self._uploads.run(timings, read)
        done = await self._encode_batcher.submit(frame, caller=caller.name)
        timings.add("queue", done.queue_s, ended_at=done.ran_until - done.run_s)
        timings.add("encode", done.run_s, ended_at=done.ran_until)
        return ImageEmbedding(done.result.tokens, original_size, done.result.proposals)

    async def _resolve(self, query: Query, hashed: str, caller: Caller, timings: Timings, began: float) -> Prompt:
        if query.mask_id is None:
            return query.prompt
        with timings.measure("cache_get"):
            mask_logits = await self._masks.find(
                self._mask_key(hashed, query.mask_id, caller), key=self._key(hashed, caller), began=began
            )
        return replace(query.prompt, mask_logits=mask_logits)

    async def _decode(
        self, state: ImageState, writing: "_Writing[Written]", caller: Caller, timings: Timings
    ) -> Written:
        """Decode all prompts and write their masks."""
        chunks = _chunks(writing.prompts, self._limits.max_decode_batch)
        if len(chunks) == 1:
            return await self._decode_some(state, chunks[0], writing, writing.write_all, caller, timings)
        # The lane takes the request or refuses it with its first piece, before anything else of it is queued.
        await self._decode_some(state, chunks[0], writing, writing.write, caller, timings)
        # One more than run at a time: a call is decoded while the masks of another are written, and other requests
        # come in between all the same.
        turns = asyncio.Semaphore(self._decode_batcher.calls + 1)

        async def decode(chunk: Sequence[int]) -> None:
            async with turns:
                await self._decode_some(state, chunk, writing, writing.write, caller, timings, is_begun=True)

        await _all_or_none([decode(chunk) for chunk in chunks[1:]])
        return await self.clicks.run(timings, writing.end)

    async def _decode_some(
        self,
        state: ImageState,
        chunk: Sequence[int],
        writing: "_Writing[Written]",
        write: Callable[[Sequence[int], Decoded], Finished],
        caller: Caller,
        timings: Timings,
        *,
        is_begun: bool = False,
    ) -> Finished:
        """One decoder call. Prompts with a mask need an image state of their own."""
        prompts = [writing.prompts[i] for i in chunk]
        masked = None
        if prompts[0].mask_logits is not None:
            masked = MaskStates(partial(self._prepare_masks, state.embedding, prompts, timings))
        item = DecodeItem(masked or state.arrays, prompts, state.embedding.original_size)
        done = await self._decode_batcher.submit(item, partial(write, chunk), is_begun=is_begun, caller=caller.name)
        timings.add("queue", done.queue_s, ended_at=done.ran_until - done.run_s)
        timings.add("decode", done.run_s - (masked.took_s if masked else 0.0), ended_at=done.ran_until)
        return done.result

    def _prepare_masks(self, embedding: ImageEmbedding, prompts: Sequence[Prompt], timings: Timings) -> StateArrays:
        mask_logits = np.stack([as_float32(prompt.mask_logits) for prompt in prompts if prompt.mask_logits is not None])
        with timings.measure("prepare"):
            return self.runtime.prepare_masks(embedding, mask_logits)

    def _key(self, hashed: str, caller: Caller) -> str:
        return embedding_key(hashed, self._fingerprint, self._dtype, caller.namespace)

    def _mask_key(self, hashed: str, identity: str, caller: Caller) -> str:
        return mask_key(hashed, identity, self._fingerprint, self._dtype, caller.namespace)


def _unwrap_and_hash(body: bytes, unwrap: Callable[[bytes], bytes], timings: Timings) -> tuple[bytes, str]:
    with timings.measure("hash"):
        data = unwrap(body)
        return data, image_hash(data)


def _with_boxes(prompts: Sequence[Prompt], embedding: ImageEmbedding) -> tuple[list[Prompt], list[Box | None]]:
    """The prompts, those that leave their size open with the box that goes with them; and these boxes."""
    if embedding.proposals is None:
        return list(prompts), [None] * len(prompts)
    grown = [with_box(prompt, embedding.proposals, embedding.original_size) for prompt in prompts]
    boxes = [
        None if now is before or now.box is None else (*now.box.tolist(),)
        for before, now in zip(prompts, grown, strict=True)
    ]
    return grown, boxes


def _chunks(prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Which prompts share a decoder call: at most so many, and those with a mask apart from those without."""
    groups = (
        [i for i, prompt in enumerate(prompts) if (prompt.mask_logits is not None) is has_mask]
        for has_mask in (False, True)
    )
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]


async def _all_or_none(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one fails, or the caller goes, the others are cancelled first."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Writing(Generic[Written]):
    """The answer to one request as it comes into being, prompt by prompt, in whatever thread decoded them."""

    def __init__(
        self,
        key: str,
        original_size: Size,
        prompts: Sequence[Prompt],
        multimask: Multimask,
        ranking: Ranking,
        renderer: Renderer[Written],
        drawing: MaskLibrary | None,
        deadline: Deadline,
        timings: Timings,
    ) -> None:
        self.prompts = prompts
        self.kept: list[tuple[str, LowResMask]] = []
        """(mask_id, logits) of every mask that was written."""
        self._key = key
        self._original_size = original_size
        self._multimask: Multimask = multimask
        self._ranking = ranking
        self._renderer = renderer
        self._drawing = drawing
        self._deadline = deadline
        self._timings = timings

    def write(self, numbers: Sequence[int], decoded: Decoded) -> None:
        """Choose on the low-resolution logits of some prompts; enlarge and write one mask after the other.

        Args:
            numbers: of the prompts, (P,).
            decoded: their answers.
        """
        postprocess_s = serialize_s = 0.0
        for row, number in enumerate(numbers):
            stability, predicted_iou = decoded.stability[row].tolist(), decoded.iou_predictions[row].tolist()
            scores = self._ranking.scores(stability, predicted_iou)
            chosen = rank(scores, candidates(self._multimask, self.prompts[number]))
            for i in chosen[: self._renderer.masks_per_prompt]:
                self._deadline.check()
                started = perf_counter()
                logits = decoded.mask_logits[row, i]
                mask_logits = to_float16(logits)
                mask = SegmentedMask(
                    mask=binary_mask(logits, self._original_size, self._drawing),
                    mask_logits=mask_logits,
                    mask_id=mask_id(self._key, mask_logits),
                    score=scores[i],
                    stability=stability[i],
                    predicted_iou=predicted_iou[i],
                )
                enlarged = perf_counter()
                self._renderer.add(number, mask)
                self.kept.append((mask.mask_id, mask_logits))
                postprocess_s += enlarged - started
                serialize_s += perf_counter() - enlarged
        ended = perf_counter()  # the two took turns, mask by mask; a trace shows one after the other
        self._timings.add("postprocess", postprocess_s, ended_at=ended - serialize_s)
        self._timings.add("serialize", serialize_s, ended_at=ended)

    def end(self) -> Written:
        """The answer, when all masks have been written."""
        with self._timings.measure("serialize"):
            return self._renderer.finish(self._original_size)

    def write_all(self, numbers: Sequence[int], decoded: Decoded) -> Written:
        """Both, where one call decodes all prompts."""
        self.write(numbers, decoded)
        return self.end()
