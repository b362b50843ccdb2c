"""The two use cases: embed a picture, cut objects out of an embedded one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np

from service.errors import CacheUnavailable
from service.inference.batching import DynamicBatcher
from service.inference.deadline import Deadline
from service.inference.lanes import DecodeItem, EmbeddingDtype, Frame, Tokens
from service.inference.refinement import LowResMask, RefinementMasks
from service.inference.runtime import Decoded, ImageState, Runtime, StateArrays
from service.inference.singleflight import Lease, SharedFlight, SingleFlight
from service.inference.states import ImageStates, Tier
from service.inference.workers import Workers
from service.metrics import Stages
from service.sam.embedding import ImageEmbedding, embedding_key, image_hash, mask_id, mask_key
from service.sam.formats import to_float16
from service.sam.images import decode_picture
from service.sam.masks import BinaryMask, Multimask, binary_mask, candidates, rank
from service.sam.prompts import Prompt, check_prompt
from service.sam.transforms import Size, preprocess

Written = TypeVar("Written")
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

    mask: BinaryMask
    mask_logits: LowResMask
    mask_id: str
    stability: float  # 0..1
    predicted_iou: float


class Renderer(Protocol[Written_co]):
    """Writes an answer mask by mask in a worker thread, so that one full-size mask is held at a time."""

    masks_per_prompt: int | None
    """Only so many of a prompt's masks, the best ones, are wanted; None: all."""

    def add(self, prompt: int, mask: SegmentedMask) -> None:
        """The next best mask of a prompt; prompts come in order."""
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
        uploads: threads for pictures, which give way to
        clicks: threads for prompts and masks.
        dtype: what tokens are rounded to before anything else sees them, so that every tier and every replica
            decodes the same numbers.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        encode_lane: DynamicBatcher[Frame, Tokens],
        decode_lane: DynamicBatcher[DecodeItem, Decoded],
        states: ImageStates,
        flight: SharedFlight[ImageEmbedding] | None,
        masks: RefinementMasks,
        uploads: Workers,
        clicks: Workers,
        dtype: EmbeddingDtype,
        limits: Limits,
    ) -> None:
        self.runtime = runtime
        self.clicks = clicks
        self._encode_lane = encode_lane
        self._decode_lane = decode_lane
        self._states = states
        self._flight = flight
        self._masks = masks
        self._uploads = uploads
        self._dtype = dtype
        self._limits = limits
        self._fingerprint = runtime.manifest.fingerprint
        self._embeds: SingleFlight[EmbedResult] = SingleFlight()

    async def embed(self, body: bytes, unwrap: Callable[[bytes], bytes], stages: Stages) -> EmbedResult:
        """Leave the picture's embedding in the caches; when this returns, every replica can segment it.

        1. unwrap and hash the bytes, 2. ask the caches before decoding anything, 3. let one caller a picture compute,
        4. decode, resize, encode, prepare, 5. keep in memory and in Redis.

        Args:
            body: as uploaded.
            unwrap: takes the picture's bytes out of the body, in a worker thread.

        Raises:
            UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio: the picture.
            Overloaded, DeadlineExceeded, NotReady: the server.
        """
        async with Deadline(self._limits.embed_timeout_s, "Embedding the picture").bound():
            data, hashed = await self._uploads.run(stages, _unwrap_and_hash, body, unwrap, stages)
            del body  # a picture in multipart would be held twice while it is encoded
            key = self._key(hashed)
            state = self._states.peek(key)
            if state is not None:
                await self._states.ensure_shared(key, state.embedding)
                return EmbedResult(hashed, state.embedding.original_size, "memory")
            return await self._embeds.run(key, lambda: self._embed_missing(key, hashed, data, stages))

    async def segment(
        self, hashed: str, queries: Sequence[Query], multimask: Multimask, renderer: Renderer[Written], stages: Stages
    ) -> Written:
        """Masks for prompts on an embedded picture, as `renderer` writes them; the picture itself is never needed.

        1. find the image state, 2. fetch the masks to refine, 3. check the prompts against the picture, 4. decode,
        5. choose masks on the low-resolution logits, enlarge and write those alone, 6. keep them for refinement.

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
            outcome: tuple[Written, list[tuple[str, LowResMask]]] = await self.clicks.run(
                stages, _write_masks, key, size, prompts, decoded, multimask, renderer, deadline, stages
            )
            written, kept = outcome
            await self._masks.keep([(self._mask_key(hashed, identity), logits) for identity, logits in kept])
        return written

    async def contains(self, hashed: str) -> Tier | None:
        """The tier that has the picture's embedding.

        Raises:
            CacheUnavailable: memory has it not, and Redis cannot be asked.
        """
        return await self._states.contains(self._key(hashed))

    async def delete(self, hashed: str) -> bool:
        """Forget the picture in this process and in Redis; whether there was anything.

        Raises:
            CacheUnavailable: Redis may still have it.
            DeadlineExceeded: it is being embedded, and that took too long to wait for.
        """
        key = self._key(hashed)
        async with Deadline(self._limits.embed_timeout_s, "Waiting for the picture's embedding").bound():
            await self._embeds.settle(key)  # which would put it back
            return await self._states.delete(key)

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
            await self._states.share(key, embedding, stages)
        finally:
            if lease is not None:  # whoever waits finds the value, or may compute it at once
                await lease.release()
        return EmbedResult(hashed, embedding.original_size, None)

    async def _encode(self, data: bytes, stages: Stages) -> ImageEmbedding:
        manifest = self.runtime.manifest

        def read() -> tuple[Frame, Size]:
            with stages.measure("decode_image"):
                picture = decode_picture(data, max_pixels=self._limits.max_pixels)
            with stages.measure("preprocess"):
                frame = preprocess(picture, manifest.mean, manifest.std, manifest.image_size)
            return frame, (picture.height, picture.width)

        frame, original_size = await self._uploads.run(stages, read)
        done = await self._encode_lane.submit(frame)
        stages.add("queue", done.queue_s)
        stages.add("encode", done.run_s)
        return ImageEmbedding(done.result, original_size)

    async def _resolve(self, query: Query, hashed: str, stages: Stages) -> Prompt:
        if query.mask_id is None:
            return query.prompt
        with stages.measure("cache_get"):
            mask_logits = await self._masks.find(self._mask_key(hashed, query.mask_id))
        return replace(query.prompt, mask_logits=mask_logits.astype(np.float32))

    async def _decode(self, state: ImageState, prompts: Sequence[Prompt], stages: Stages) -> list[Decoded]:
        """An answer of P = 1 for each prompt, in order. A prompt with a mask needs an image state of its own."""
        answers: dict[int, Decoded] = {}
        for masked in (False, True):
            group = [i for i, prompt in enumerate(prompts) if (prompt.mask_logits is not None) is masked]
            for start in range(0, len(group), self._limits.max_decode_batch):
                chunk = group[start : start + self._limits.max_decode_batch]
                some = [prompts[i] for i in chunk]
                arrays = state.arrays
                if masked:
                    arrays = await self.clicks.run(stages, self._prepare_masks, state.embedding, some, stages)
                done = await self._decode_lane.submit(DecodeItem(arrays, some, state.embedding.original_size))
                stages.add("queue", done.queue_s)
                stages.add("decode", done.run_s)
                answers.update({i: done.result.rows(row, row + 1) for row, i in enumerate(chunk)})
        return [answers[i] for i in range(len(prompts))]

    def _prepare_masks(self, embedding: ImageEmbedding, prompts: Sequence[Prompt], stages: Stages) -> StateArrays:
        mask_logits = np.stack([prompt.mask_logits for prompt in prompts if prompt.mask_logits is not None])
        with stages.measure("prepare"):
            return self.runtime.prepare_masks(embedding, mask_logits)

    def _key(self, hashed: str) -> str:
        return embedding_key(hashed, self._fingerprint, self._dtype)

    def _mask_key(self, hashed: str, identity: str) -> str:
        return mask_key(hashed, identity, self._fingerprint, self._dtype)


def _unwrap_and_hash(body: bytes, unwrap: Callable[[bytes], bytes], stages: Stages) -> tuple[bytes, str]:
    with stages.measure("hash"):
        data = unwrap(body)
        return data, image_hash(data)


def _write_masks(
    key: str,
    original_size: Size,
    prompts: Sequence[Prompt],
    decoded: Sequence[Decoded],
    multimask: Multimask,
    renderer: Renderer[Written],
    deadline: Deadline,
    stages: Stages,
) -> tuple[Written, list[tuple[str, LowResMask]]]:
    """Choose on the low-resolution logits; enlarge and write one mask after the other.

    Returns:
        What the renderer wrote, and (mask_id, logits) of every mask.
    """
    kept: list[tuple[str, LowResMask]] = []
    postprocess_s = serialize_s = 0.0
    for number, (prompt, answer) in enumerate(zip(prompts, decoded, strict=True)):
        for i in rank(answer.stability[0], candidates(multimask, prompt))[: renderer.masks_per_prompt]:
            deadline.check()
            started = perf_counter()
            mask_logits = to_float16(answer.mask_logits[0, i])
            mask = SegmentedMask(
                mask=binary_mask(answer.mask_logits[0, i], original_size),
                mask_logits=mask_logits,
                mask_id=mask_id(key, mask_logits),
                stability=float(answer.stability[0, i]),
                predicted_iou=float(answer.iou_predictions[0, i]),
            )
            enlarged = perf_counter()
            renderer.add(number, mask)
            kept.append((mask.mask_id, mask_logits))
            postprocess_s += enlarged - started
            serialize_s += perf_counter() - enlarged
    started = perf_counter()
    written = renderer.finish(original_size)
    stages.add("postprocess", postprocess_s)
    stages.add("serialize", serialize_s + perf_counter() - started)
    return written, kept
