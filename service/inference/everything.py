"""Finding the masks of all objects of an embedded image: the use case behind /segment/everything."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import ImageState
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.image_states import ImageStates
from service.inference.model_batchers import GridItem
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segmentation_builder import MaskFunctions
from service.sam.decoded_image import ImageInfo
from service.sam.everything.candidates import Candidate, SearchedPart, candidates_of
from service.sam.everything.coverage import GridCells
from service.sam.everything.found_mask import CropBox, EverythingMask
from service.sam.everything.grid import coarse_to_fine, grid_points
from service.sam.everything.options import EverythingOptions
from service.sam.everything.result import EverythingResult
from service.sam.everything.selection import MaskSelection, SelectedMasks
from service.sam.frame import Frame
from service.sam.number_format import EmbeddingDtype
from service.sam.region import placed
from service.sam.transforms import used_cells

POINTS_PER_CALL: Final = 16
"""Points of one decoder call: about a quarter of a second of one processor. A request that is cancelled ends after
the calls that run."""

UPDATES: Final = 16
"""Number of times that the masks of a request are chosen again while it runs."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first event.

    Args:
        image: Size of the upright image, and how its file was read.
        prompts: Number of points of the grid.
        crop_box: Part of the image that is searched: x, y, width, height, pixels.
    """

    image: ImageInfo
    prompts: int
    crop_box: CropBox


@dataclass(frozen=True, slots=True)
class Advanced:
    """Some points are done.

    Args:
        done: Number of points so far that were decoded, or left out by `fast`.
    """

    done: int


@dataclass(frozen=True, slots=True)
class Found:
    """A mask is in the result now. It may be dropped later, and found again after that.

    Args:
        mask: The mask.
    """

    mask: EverythingMask


@dataclass(frozen=True, slots=True)
class Dropped:
    """Masks that were found are not in the result any more.

    Args:
        ids: Ids of the masks, rising.
    """

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: the result.

    Args:
        ids: Ids of all masks of the result, best first. All of them were found before.
    """

    ids: Sequence[int]


Event = Started | Advanced | Found | Dropped | Finished


class EverythingSegmenter:
    """Finds the masks of all objects of an embedded image, by one model.

    Args:
        runtime: Model that decodes.
        batcher: Queue and threads for the points of grids, of lower priority than those of prompts.
        states: Image states in memory, and embeddings in Redis.
        executor: Threads that choose the masks of a result.
        dtype: Type of the tokens in the caches.
        mask_functions: Functions that enlarge masks.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        batcher: DynamicBatcher[GridItem, SelectedMasks],
        states: ImageStates,
        executor: TimedExecutor,
        dtype: EmbeddingDtype,
        mask_functions: MaskFunctions,
    ) -> None:
        self._runtime = runtime
        self._batcher = batcher
        self._states = states
        self._executor = executor
        self._dtype = dtype
        self._mask_functions = mask_functions

    async def find(self, image_id: str, options: EverythingOptions, context: RequestContext) -> AsyncGenerator[Event]:
        """Find the masks of all objects of an image. The image itself is not needed.

        All heavy work runs in worker threads. Closing the iterator cancels the points that wait. A consumer that waits
        between two events delays the request and does not cancel it; the deadline bounds the work and not the consumer.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            options: Options of the request.
            context: Context of the request.

        Yields:
            `Started`; then `Advanced`, `Found` and `Dropped` as the work goes on; at last `Finished`.

        Raises:
            EmbeddingNotFound: The image is not embedded.
            CacheUnavailable, Overloaded, DeadlineExceeded, NotReady: The server cannot answer now, or not to the end.
        """
        async with context.deadline.bound():
            key = ImageKey(image_id, context.caller.namespace, self._runtime.fingerprint, self._dtype)
            state = await self._states.find(key.cache_key, context)
        search = _Search(self._runtime, self._batcher, self._mask_functions, state, options, context)
        yield Started(state.embedding.info, options.points_per_side**2, search.part.crop_box)
        shown = 0
        try:
            for level in coarse_to_fine(options.points_per_side):
                search.begin(level)
                if not search.is_running:  # all points of the level are covered
                    yield Advanced(search.done)
                while search.is_running:
                    async with context.deadline.bound():
                        await search.advance()
                        is_due = (search.done - shown) * UPDATES >= options.points_per_side**2
                        if is_due or not search.is_running:
                            shown = search.done
                            change = await self._executor.run(context.timings, search.result.update, search.check)
                        else:
                            change = None
                    yield Advanced(search.done)
                    if change is not None and change.dropped:
                        yield Dropped(change.dropped)
                    for mask in change.found if change is not None else ():
                        yield Found(mask)
            yield Finished([mask.id for mask in search.result.masks])
        finally:
            await search.cancel()


class _Search:
    """The points of one request in the queue, and the masks found so far. For the event loop alone.

    Args:
        runtime: Model that decodes.
        batcher: Queue and threads for the points of grids.
        mask_functions: Functions that enlarge masks.
        state: State of the image.
        options: Options of the request.
        context: Context of the request.

    Attributes:
        part: Part of the image that is searched.
        result: Masks found so far.
        done: Number of points that were decoded or left out.
    """

    def __init__(
        self,
        runtime: Runtime,
        batcher: DynamicBatcher[GridItem, SelectedMasks],
        mask_functions: MaskFunctions,
        state: ImageState,
        options: EverythingOptions,
        context: RequestContext,
    ) -> None:
        defaults = runtime.manifest.everything_defaults
        image = state.embedding.info
        left, top = (0, 0) if image.region is None else (image.region.x0, image.region.y0)
        self.part = SearchedPart(Frame(image.encoded_size, runtime.manifest.resize), left, top, image.size)
        self._place = partial(placed, region=image.region, size=image.size)
        self.result = EverythingResult(options)
        self.done = 0
        self._runtime = runtime
        self._batcher = batcher
        self._mask_functions = mask_functions
        self._arrays = state.arrays
        self._options = options
        self._context = context
        self._selection = MaskSelection(
            defaults.outputs, defaults.quality, options.pred_iou_thresh, used_cells(self.part.frame)
        )
        self._points = self.part.pixels(grid_points(options.points_per_side))
        self._cells = GridCells(self._points, self.part.frame) if options.fast else None
        self._waiting: list[NDArray[np.int64]] = []
        self._running: dict[asyncio.Task[list[Candidate]], int] = {}
        self._is_admitted = False
        self._is_cancelled = False

    @property
    def is_running(self) -> bool:
        """Whether points of the level are not decoded yet."""
        return bool(self._waiting or self._running)

    def begin(self, level: NDArray[np.int64]) -> None:
        """Take the points of a level, without those that `fast` leaves out.

        Args:
            level: Indices of the points in the grid.
        """
        if self._cells is not None:
            wanted = level[~self.result.covered(len(self._points))[level]]
            self.done += len(level) - len(wanted)
            level = wanted
        self._waiting = [level[i : i + POINTS_PER_CALL] for i in range(0, len(level), POINTS_PER_CALL)]

    async def advance(self) -> None:
        """Wait until at least one more call has ended, and add its candidates."""
        # One more than the calls: while the masks of one are enlarged, another is decoded. Other requests come between.
        while self._waiting and len(self._running) <= self._batcher.calls:
            indices = self._waiting.pop(0)
            self._running[asyncio.create_task(self._decode(indices, is_admitted=self._is_admitted))] = len(indices)
            self._is_admitted = True
        ended, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            self.done += self._running.pop(task)
            self.result.add(task.result())

    def check(self) -> None:
        """Stop long work in a thread: of a request that was cancelled, or whose time is over.

        Raises:
            CancelledError: The request was cancelled.
            DeadlineExceeded: The time is over.
        """
        if self._is_cancelled:
            raise CancelledError
        self._context.deadline.check()

    async def cancel(self) -> None:
        """Cancel the points that wait, stop the choice of masks, and forget the calls that run."""
        self._is_cancelled = True
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    async def _decode(self, indices: NDArray[np.int64], *, is_admitted: bool) -> list[Candidate]:
        """Decode some points, and make masks of the answers that pass the filters."""
        points = self._points[indices]
        item = GridItem(self._runtime, self._arrays, points, self.part.frame, self._selection)
        finish = partial(
            candidates_of,
            indices=indices.tolist(),
            points=points,
            part=self.part,
            options=self._options,
            outputs=len(self._selection.outputs),
            enlarge=self._mask_functions.enlarge,
            place=self._place,
            cells=self._cells,
        )
        done = await self._batcher.submit(item, finish, is_admitted=is_admitted, caller=self._context.caller.name)
        timings = self._context.timings
        timings.add("queue", done.queue_s, ended_at=done.ran_until - done.run_s)
        timings.add("decode", done.run_s, ended_at=done.ran_until)
        if self._context.usage is not None:
            self._context.usage.add_everything_prompts(len(points), done.run_s / done.batch_size)
        return done.result
