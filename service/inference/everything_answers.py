"""Answers to everything requests: from Redis where it has the result, else from the decoder, in one form."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from service.errors import CacheUnavailable, InvalidRequest
from service.inference.context import RequestContext
from service.inference.everything import Advanced, Dropped, Finished, Found, Started
from service.inference.everything_results import EverythingResults, ResultKey
from service.inference.image_key import ImageKey
from service.inference.scheduling.executors import TimedExecutor
from service.inference.served_models import ServedModel
from service.sam.decoded_image import ImageInfo
from service.sam.everything.found_mask import CropBox, EverythingMask
from service.sam.everything.options import EverythingOptions
from service.sam.everything.record import MaskRecord, RecordedResult, record_of
from service.sam.number_format import EmbeddingDtype
from service.sam.transforms import Size
from service.telemetry.metrics import Metrics

MAX_ANSWER_BYTES: Final = 64 << 20
"""Largest size of the masks of one answer, in bytes. The masks of a photo have about 1 MiB, also at 50 megapixels."""

# Stored masks that a thread writes in a row. Then the events of other requests come in between.
_MASKS_PER_STEP: Final = 16

Write = Callable[[MaskRecord, Size], bytes]
"""A blocking function that writes one mask of an image of this size, as the client asked for it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The first event of an answer.

    Args:
        image: Size of the upright image, and how its file was read.
        prompts: Number of prompts to decode; 0 for a result from Redis.
        crop_box: Part of the image that is searched: x, y, width, height, pixels.
        is_cached: Whether the result comes from Redis.
    """

    image: ImageInfo
    prompts: int
    crop_box: CropBox
    is_cached: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A mask is in the result now. It may be dropped later.

    Args:
        record: The mask.
        content: What `Write` made of it.
    """

    record: MaskRecord
    content: bytes


AnswerEvent = Begun | Advanced | Written | Dropped | Finished


class EverythingAnswers:
    """Answers everything requests for all models.

    Args:
        results: Results in Redis.
        executor: Threads of low priority that write masks.
        dtype: Type of the tokens in the caches.
        metrics: Metrics of the process, which count prompts and masks.
    """

    def __init__(
        self, results: EverythingResults, executor: TimedExecutor, *, dtype: EmbeddingDtype, metrics: Metrics
    ) -> None:
        self._results = results
        self._executor = executor
        self._dtype = dtype
        self._metrics = metrics

    async def answer(
        self, model: ServedModel, image_id: str, options: EverythingOptions, write: Write, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent]:
        """Answer one request. The consumer closes the iterator, which cancels the work that waits.

        Args:
            model: Model of the request.
            image_id: Id of the image, see `service.sam.image_id`.
            options: Options of the request.
            write: Function that writes a mask.
            context: Context of the request.

        Yields:
            `Begun`; then `Advanced`, `Written` and `Dropped` as the work goes on; at last `Finished`.

        Raises:
            InvalidRequest: The masks take more than `MAX_ANSWER_BYTES`.
            EmbeddingNotFound, CacheUnavailable, Overloaded, DeadlineExceeded, NotReady: The server cannot answer now,
                or not to the end.
        """
        image_key = ImageKey(image_id, context.caller.namespace, model.fingerprint, self._dtype)
        key = ResultKey(image_key, model.manifest_sha256, options)
        events = self._stored(model, key, write, context)
        async with aclosing(events):
            async for event in events:
                yield event
                if isinstance(event, Finished):
                    return
        events = self._computed(model, key, write, context)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _stored(
        self, model: ServedModel, key: ResultKey, write: Write, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent]:
        """Yield the events of the result in Redis; none where it has none."""
        async with context.deadline.bound():
            try:
                embedded = await model.states.contains(key.image.cache_key)
            except CacheUnavailable:  # looking for the image itself says what the client can do
                return
            stored = None if embedded is None else await self._results.find(key, embedded[1], context)
        if embedded is None or stored is None:
            return
        _, image = embedded
        yield Begun(image, 0, stored.crop_box, is_cached=True)
        limit = _Limit()
        for start in range(0, len(stored.masks), _MASKS_PER_STEP):
            masks = stored.masks[start : start + _MASKS_PER_STEP]
            async with context.deadline.bound():
                contents = await self._executor.run(context.timings, _write_all, masks, stored.size, write, context)
            for record, content in zip(masks, contents, strict=True):
                limit.add(record, content)
                yield Written(record, content)
        self._metrics.everything_masks_total.labels("cached").inc(len(stored.masks))
        yield Finished([mask.id for mask in stored.masks])

    async def _computed(
        self, model: ServedModel, key: ResultKey, write: Write, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent]:
        """Yield the events of the decoder, and store the result."""
        begun: Begun | None = None
        found: dict[int, MaskRecord] = {}
        limit = _Limit()
        done = 0
        events = model.everything.find(key.image.image_id, key.options, context)
        async with aclosing(events):
            async for event in events:
                match event:
                    case Started(image, prompts, crop_box):
                        begun = Begun(image, prompts, crop_box, is_cached=False)
                        yield begun
                    case Found(mask):
                        assert begun is not None
                        async with context.deadline.bound():
                            arguments = (mask, begun.image.size, write, context)
                            record, content = await self._executor.run(context.timings, _record, *arguments)
                        limit.add(record, content)
                        found[record.id] = record
                        yield Written(record, content)
                    case Dropped(ids):
                        for each in ids:
                            limit.remove(found.pop(each))
                        yield event
                    case Advanced():
                        self._metrics.everything_prompts_total.inc(event.done - done)
                        done = event.done
                        yield event
                    case Finished(ids):
                        assert begun is not None
                        result = RecordedResult(begun.image.size, begun.crop_box, _in_order(found, ids))
                        await self._results.keep(key, result, context)
                        self._metrics.everything_masks_total.labels("decoded").inc(len(ids))
                        yield event


class _Limit:
    """Adds up the bytes that the masks of one answer take, and refuses too many."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._total = 0

    def add(self, record: MaskRecord, content: bytes) -> None:
        size = len(record.counts) + len(content)
        self._bytes[record.id] = size
        self._total += size
        if self._total > MAX_ANSWER_BYTES:
            message = (
                f"the masks take more than {MAX_ANSWER_BYTES >> 20} MiB. Ask for fewer with max_masks, raise "
                "pred_iou_thresh or stability_score_thresh, or choose the format rle."
            )
            errors = [{"where": "/max_masks", "message": message}]
            raise InvalidRequest(f"/max_masks: {message}", extra={"errors": errors})

    def remove(self, record: MaskRecord) -> None:
        self._total -= self._bytes.pop(record.id)


def _record(mask: EverythingMask, size: Size, write: Write, context: RequestContext) -> tuple[MaskRecord, bytes]:
    with context.timings.measure("serialize"):
        record = record_of(mask)
        return record, write(record, size)


def _write_all(masks: Iterable[MaskRecord], size: Size, write: Write, context: RequestContext) -> list[bytes]:
    """Write several masks, unless the time of the request is over. Blocking."""
    contents = []
    with context.timings.measure("serialize"):
        for mask in masks:
            context.deadline.check()
            contents.append(write(mask, size))
    return contents


def _in_order(found: dict[int, MaskRecord], ids: Sequence[int]) -> tuple[MaskRecord, ...]:
    return tuple(found[each] for each in ids)
