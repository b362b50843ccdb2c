"""Segmenting an embedded image by prompts: the use case behind /segment."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from service.errors import InvalidRequest
from service.inference.backends.image_state import ImageState, StateArrays
from service.inference.backends.prompt_decoders import Decoded
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.image_states import ImageStates
from service.inference.model_batchers import DecodeItem, MaskStates
from service.inference.refinement_masks import RefinablePrompt, RefinementMasks
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.gathering import gather_or_cancel
from service.inference.segmentation_builder import MaskFunctions, Renderer, SegmentationBuilder
from service.sam.cleanup import Cleanup
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.float16 import as_float32
from service.sam.frame import Frame
from service.sam.granularity import Box, Granularity, with_box
from service.sam.mask_prompts import EncodedMask, held_to_mask, stability, with_mask
from service.sam.masks import Multimask, narrow_stability
from service.sam.number_format import EmbeddingDtype
from service.sam.prompts import Prompt
from service.sam.refinement import needs_box_of_mask, with_box_of_mask
from service.sam.region_prompts import to_encoded, to_whole
from service.telemetry.timings import Timings

Answer = TypeVar("Answer")
Finished = TypeVar("Finished")


class Segmenter:
    """Answers prompts on embedded images with masks, by one model.

    Args:
        runtime: Model that decodes.
        batcher: Queue and threads of the prompt decoders.
        states: Image states in memory, and embeddings in Redis.
        masks: Masks of earlier answers, which prompts can refine.
        executor: Threads for work on prompts beside the decoder.
        dtype: Type of the tokens in the caches.
        max_decode_batch: Largest number of prompts in one decoder call. The native decoder takes them one by one.
        mask_functions: Functions that clean and enlarge masks.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        batcher: DynamicBatcher[DecodeItem, Decoded],
        states: ImageStates,
        masks: RefinementMasks,
        executor: TimedExecutor,
        dtype: EmbeddingDtype,
        max_decode_batch: int,
        mask_functions: MaskFunctions,
    ) -> None:
        self._runtime = runtime
        self._batcher = batcher
        self._states = states
        self._masks = masks
        self._executor = executor
        self._dtype = dtype
        self._max_decode_batch = 1 if runtime.is_native else max_decode_batch
        self._mask_functions = mask_functions

    async def segment(
        self,
        image_id: str,
        prompts: Sequence[RefinablePrompt],
        multimask: Multimask,
        renderer: Renderer[Answer],
        context: RequestContext,
        *,
        granularity: Granularity = "off",
        cleanup: Cleanup = "none",
    ) -> Answer:
        """Return the masks of prompts on an embedded image, as `renderer` writes them. The image itself is not needed.

        1. Find the image state. 2. Fetch the masks to refine. 3. Check the prompts against the image, and move them
        into its region where it has one. Add the box of the earlier mask to negative points alone, and boxes by
        granularity where that is asked for. 4. Decode. While other prompts decode, 5. choose masks by their logits;
        clean them, store them for refinement, enlarge them, place those of a region and write them. 6. Wait until the
        masks are stored, for a bounded time.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            prompts: Prompts, at least one.
            multimask: Number of masks for each prompt.
            renderer: Writer of the answer.
            context: Context of the request.
            granularity: Whether single points get a box; `auto` changes nothing for an embedding without proposals.
            cleanup: Whether masks are cleaned.

        Raises:
            EmbeddingNotFound, MaskNotFound, PromptOutsideImage: The request cannot be answered.
            CacheUnavailable, Overloaded, DeadlineExceeded, NotReady: The server cannot answer now.
        """
        async with context.deadline.bound():
            key = ImageKey(image_id, context.caller.namespace, self._runtime.fingerprint, self._dtype)
            state = await self._states.find(key.cache_key, context)
            image = state.embedding.info
            frame = Frame(image.encoded_size, self._runtime.manifest.resize)
            complete = [to_encoded(prompt, image) for prompt in await self._with_masks(key, prompts, context)]
            for index, each in enumerate(prompts):
                if each.mask is not None:
                    arguments = index, complete[index], each.mask, frame, image
                    complete[index] = await self._executor.run(context.timings, _with_mask, *arguments)
            if any(map(needs_box_of_mask, complete)):
                complete = await self._executor.run(context.timings, self._with_boxes_of_masks, complete, frame)
            boxes: Sequence[Box | None] | None = None
            if granularity == "auto":
                complete, grown = await self._executor.run(
                    context.timings, _with_boxes, complete, state.embedding, frame
                )
                boxes = [to_whole(box, image.region) for box in grown]
            with self._masks.of_answer(key, context) as masks:
                builder = SegmentationBuilder(
                    key=key,
                    image=image,
                    frame=frame,
                    prompts=complete,
                    boxes=boxes,
                    multimask=multimask,
                    ranking=self._runtime.manifest.ranking,
                    choice=self._runtime.manifest.mask_choice,
                    largest_logit=self._runtime.manifest.largest_logit,
                    renderer=renderer,
                    cleanup=cleanup,
                    functions=self._mask_functions,
                    on_masks=masks.add,
                    context=context,
                )
                answer = await self._decode(state, builder, context)
                await self._masks.keep(masks)
        return answer

    def retire(self) -> None:
        """Drop the masks of this model from memory, and keep none from now on."""
        self._masks.retire(self._runtime.fingerprint)

    async def _with_masks(
        self, key: ImageKey, prompts: Sequence[RefinablePrompt], context: RequestContext
    ) -> list[Prompt]:
        """Replace the ids of masks to refine by the masks."""
        mask_ids = [each.mask_id for each in prompts if each.mask_id is not None]
        if not mask_ids:
            return [each.prompt for each in prompts]
        with context.timings.measure("cache_get"):
            found = await self._masks.find(key, mask_ids, context)
        return [
            each.prompt if each.mask_id is None else replace(each.prompt, mask_logits=found[each.mask_id])
            for each in prompts
        ]

    def _with_boxes_of_masks(self, prompts: Sequence[Prompt], frame: Frame) -> list[Prompt]:
        """Add the box of the earlier mask to negative points alone. Blocking."""
        filter_pieces = self._mask_functions.filter_pieces
        return [
            with_box_of_mask(prompt, frame, filter_pieces) if needs_box_of_mask(prompt) else prompt
            for prompt in prompts
        ]

    async def _decode(self, state: ImageState, builder: SegmentationBuilder[Answer], context: RequestContext) -> Answer:
        """Decode all prompts and write their masks."""
        first, *others = _chunks(builder.prompts, self._max_decode_batch)
        if not others:
            return await self._decode_chunk(state, first, builder, builder.add_and_finish, context)
        # The decoder's queue admits or refuses the request with its first chunk, before anything else of it is queued.
        await self._decode_chunk(state, first, builder, builder.add, context)
        # One more than the decoder runs at a time: while the masks of one chunk are written, another is decoded. Other
        # requests still come in between.
        permits = asyncio.Semaphore(self._batcher.calls + 1)

        async def decode(chunk: Sequence[int]) -> None:
            async with permits:
                await self._decode_chunk(state, chunk, builder, builder.add, context, is_admitted=True)

        await gather_or_cancel([decode(chunk) for chunk in others])
        return await self._executor.run(context.timings, builder.finish)

    async def _decode_chunk(
        self,
        state: ImageState,
        chunk: Sequence[int],
        builder: SegmentationBuilder[Answer],
        add: Callable[[Sequence[int], Decoded], Finished],
        context: RequestContext,
        *,
        is_admitted: bool = False,
    ) -> Finished:
        """Decode some prompts in one call. Prompts with a mask need an image state each."""
        timings = context.timings
        prompts = [builder.prompts[i] for i in chunk]
        masked = None
        if prompts[0].mask_logits is not None:
            masked = MaskStates(partial(self._prepare_masks, state, prompts, timings))
        item = DecodeItem(
            self._runtime,
            masked or state.arrays,
            prompts,
            builder.frame,
            shares_call=not self._runtime.is_native,
        )
        done = await self._batcher.submit(
            item, partial(_add, add, chunk, prompts), is_admitted=is_admitted, caller=context.caller.name
        )
        timings.add("queue", done.queue_s, ended_at=done.ran_until - done.run_s)
        timings.add("decode", done.run_s - (masked.took_s if masked else 0.0), ended_at=done.ran_until)
        if context.usage is not None:
            context.usage.add_prompts(len(chunk), done.run_s * len(chunk) / done.batch_size)
        return done.result

    def _prepare_masks(self, state: ImageState, prompts: Sequence[Prompt], timings: Timings) -> StateArrays:
        """Prepare the image state of each prompt with a mask. Blocking."""
        mask_logits = np.stack([as_float32(prompt.mask_logits) for prompt in prompts if prompt.mask_logits is not None])
        with timings.measure("prepare"):
            return self._runtime.prepare_masks(state, mask_logits)


def _with_mask(index: int, prompt: Prompt, mask: EncodedMask, frame: Frame, image: ImageInfo) -> Prompt:
    """Return a prompt with its binary mask; see `with_mask`. Blocking."""
    try:
        return with_mask(prompt, mask, frame, image)
    except InvalidRequest as error:
        listed = [{"where": f"/prompts/{index}/mask", "message": error.detail}]
        raise InvalidRequest(f"{listed[0]['where']}: {error.detail}", extra={"errors": listed}) from error


def _add(
    add: Callable[[Sequence[int], Decoded], Finished], chunk: Sequence[int], prompts: Sequence[Prompt], decoded: Decoded
) -> Finished:
    """Pass the answer of the decoder on, with the masks to which prompts are held. Blocking."""
    held = [row for row, prompt in enumerate(prompts) if prompt.is_held]
    if held:
        mask_logits, scores = decoded.mask_logits.copy(), decoded.stability.copy()
        narrow = None if decoded.narrow_stability is None else decoded.narrow_stability.copy()
        for row in held:
            prompt_logits = prompts[row].mask_logits
            assert prompt_logits is not None
            mask_logits[row] = held_to_mask(mask_logits[row], prompt_logits)
            scores[row] = stability(mask_logits[row])
            if narrow is not None:
                narrow[row] = narrow_stability(mask_logits[row, :1])[0]
        decoded = replace(decoded, mask_logits=mask_logits, stability=scores, narrow_stability=narrow)
    return add(chunk, decoded)


def _with_boxes(
    prompts: Sequence[Prompt], embedding: ImageEmbedding, frame: Frame
) -> tuple[list[Prompt], list[Box | None]]:
    """Return the prompts with boxes by granularity, and these boxes. Prompts that state their size stay as they are."""
    if embedding.proposals is None:
        return list(prompts), [None] * len(prompts)
    grown = [with_box(prompt, embedding.proposals, frame) for prompt in prompts]
    boxes = [
        None if now is before or now.box is None else (*now.box.tolist(),)
        for before, now in zip(prompts, grown, strict=True)
    ]
    return grown, boxes


def _chunks(prompts: Sequence[Prompt], largest: int) -> list[list[int]]:
    """Return the indices of the prompts of each decoder call. Prompts with and without a mask never share a call."""
    groups = (
        [i for i, prompt in enumerate(prompts) if (prompt.mask_logits is not None) is has_mask]
        for has_mask in (False, True)
    )
    return [group[start : start + largest] for group in groups for start in range(0, len(group), largest)]
