"""The answer to a prompt request while its masks are made: ranking, enlarging and rendering."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.onnx_graph import Floats
from service.inference.backends.prompt_decoders import Decoded
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.refinement_masks import LowResMask
from service.mask_rules import Ranking, limited_score
from service.sam.alpha import Alpha, soft_alpha
from service.sam.cleanup import Cleanup, MaskCleaner
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import mask_id as id_of_mask
from service.sam.enlarged_pieces import FilterEnlarged, marked_pixels
from service.sam.frame import Frame
from service.sam.granularity import Box
from service.sam.logits import to_float16
from service.sam.mask_pieces import FilterPieces
from service.sam.masks import Mask, MaskChoice, MaskFunction, Multimask, candidates, mask_count, prefer_agreeing, rank
from service.sam.point_agreement import point_taps
from service.sam.prompts import Prompt
from service.sam.region import placed

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True, slots=True)
class SegmentedMask:
    """One mask of the answer.

    Args:
        mask: Mask at the resolution of the image, after cleanup.
        mask_logits: Logits of the same mask, (256, 256) float16, limited as the model's authors do.
        mask_id: Id by which a later prompt can refine the mask.
        score: Score by the model's ranking rule, limited to 0..1, before cleanup. The masks of a prompt are ordered by
            it, not limited, and by their agreement with the points.
        stability: Stability of the mask against another threshold, 0 to 1, before cleanup.
        predicted_iou: IoU that the decoder predicts for the mask, before cleanup.
        draw_alpha: Function that computes the alpha of the mask. Blocking.
    """

    mask: Mask
    mask_logits: LowResMask
    mask_id: str
    score: float
    stability: float
    predicted_iou: float
    draw_alpha: Callable[[], Alpha]


class Renderer(Protocol[Answer_co]):
    """Writes an answer mask by mask in worker threads. Each thread then holds one mask of full size at a time."""

    masks_per_prompt: int | None
    """Number of masks to write for each prompt, the best ones; None for all."""

    def add(self, prompt: int, mask: SegmentedMask) -> None:
        """Write the next best mask of a prompt.

        Prompts come in any order and from several threads. The masks of one prompt come from one thread.
        """
        ...

    def finish(self, image: ImageInfo, boxes: Sequence[Box | None] | None) -> Answer_co:
        """Return the answer after all masks were added.

        Args:
            image: Size of the upright image, its region, and how its file was read.
            boxes: Box of each prompt by its granularity; None where no granularity was asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class MaskFunctions:
    """The functions that make masks of the decoder's logits: those in C, or those in NumPy.

    Args:
        enlarge: Function that enlarges logits to a mask.
        filter_pieces: Function that drops small pieces and fills small holes in logits.
        filter_enlarged: Function that does the same in an enlarged mask.
    """

    enlarge: MaskFunction
    filter_pieces: FilterPieces
    filter_enlarged: FilterEnlarged


class SegmentationBuilder(Generic[Answer]):
    """Collects the masks of one answer. Each is processed in the thread that decoded it.

    Args:
        key: Cache keys of the image.
        image: Size of the upright image, its region, and how its file was read.
        frame: What is embedded, the image or its region, in the frame of prompts and masks.
        prompts: All prompts of the request, in pixels of what is embedded.
        boxes: Box of each prompt by its granularity, in pixels of the whole image; None where no granularity was asked
            for.
        multimask: Number of masks for each prompt.
        ranking: Ranking rule of the model.
        choice: Outputs of the decoder that the model uses.
        largest_logit: Largest absolute value of the logits that leave the service, see `service.sam.logits`.
        renderer: Writer of the answer.
        cleanup: Whether masks are cleaned.
        functions: Functions that clean and enlarge masks.
        on_masks: Function that gets id and logits of the masks of a prompt, before they are enlarged.
        context: Context of the request.
    """

    def __init__(
        self,
        *,
        key: ImageKey,
        image: ImageInfo,
        frame: Frame,
        prompts: Sequence[Prompt],
        boxes: Sequence[Box | None] | None,
        multimask: Multimask,
        ranking: Ranking,
        choice: MaskChoice,
        largest_logit: float,
        renderer: Renderer[Answer],
        cleanup: Cleanup,
        functions: MaskFunctions,
        on_masks: Callable[[Sequence[tuple[str, LowResMask]]], None],
        context: RequestContext,
    ) -> None:
        self.prompts = prompts
        self.frame = frame
        self._key = key
        self._image = image
        self._boxes = boxes
        self._multimask: Multimask = multimask
        self._ranking = ranking
        self._choice = choice
        self._largest_logit = largest_logit
        self._renderer = renderer
        self._cleanup: Cleanup = cleanup
        self._functions = functions
        self._on_masks = on_masks
        self._context = context

    def add(self, indices: Sequence[int], decoded: Decoded) -> None:
        """Rank the masks of some prompts by their logits, then enlarge and write one after the other.

        Args:
            indices: Indices of P prompts.
            decoded: Answers of the decoder to these prompts.
        """
        postprocess_s = serialize_s = 0.0
        for row, index in enumerate(indices):
            stability, predicted_iou = decoded.stability[row].tolist(), decoded.iou_predictions[row].tolist()
            scores = self._ranking.scores(stability, predicted_iou)
            narrow_stability = 1.0 if decoded.narrow_stability is None else float(decoded.narrow_stability[row])
            started = perf_counter()
            chosen = self._chosen(self.prompts[index], scores, decoded.mask_logits[row], narrow_stability)
            chosen = chosen[: self._renderer.masks_per_prompt]
            logits = self._cleaned(index, [decoded.mask_logits[row, i] for i in chosen])
            identified = [self._identified(each) for each in logits]
            self._on_masks(identified)
            for i, each, (mask_id, mask_logits) in zip(chosen, logits, identified, strict=True):
                self._context.deadline.check()
                pixels = self._enlarged(index, each)
                mask = SegmentedMask(
                    mask=self._placed(pixels),
                    mask_logits=mask_logits,
                    mask_id=mask_id,
                    score=limited_score(scores[i]),
                    stability=stability[i],
                    predicted_iou=predicted_iou[i],
                    draw_alpha=partial(self._alpha, each, pixels),
                )
                enlarged = perf_counter()
                self._renderer.add(index, mask)
                postprocess_s += enlarged - started
                started = perf_counter()
                serialize_s += started - enlarged
        # The two alternate, mask by mask. Timings and traces show each of them once, one after the other.
        ended = perf_counter()
        self._context.timings.add("postprocess", postprocess_s, ended_at=ended - serialize_s)
        self._context.timings.add("serialize", serialize_s, ended_at=ended)

    def finish(self) -> Answer:
        """Return the answer after the masks of all prompts were added."""
        with self._context.timings.measure("serialize"):
            return self._renderer.finish(self._image, self._boxes)

    def _chosen(
        self, prompt: Prompt, scores: tuple[float, ...], mask_logits: Floats, narrow_stability: float
    ) -> tuple[int, ...]:
        """Return the outputs of a prompt in the order of the answer.

        Args:
            prompt: Prompt of the masks.
            scores: Score of each output by the model's rule, (4,).
            mask_logits: Logits of all outputs, (4, 256, 256).
            narrow_stability: Narrow stability of output 0.
        """
        indices = candidates(self._multimask, prompt, self._choice, narrow_stability)
        order_by = scores
        agreement = self._ranking.agreement
        if agreement and len(indices) > 1 and len(prompt.points):
            agrees = point_taps(prompt, self.frame).agree(mask_logits)  # (4, N)
            order_by = prefer_agreeing(scores, [bool(each.all()) for each in agrees], agreement)
        return rank(order_by, indices)[: mask_count(self._multimask, prompt, self._choice)]

    def _cleaned(self, index: int, mask_logits: Sequence[NDArray[np.float32]]) -> Sequence[NDArray[np.float32]]:
        """Return the logits of the chosen masks of a prompt, cleaned where that is asked for."""
        if self._cleanup == "none":
            return mask_logits
        # A box by granularity is a guess, and does not bound the mask.
        is_guessed = self._boxes is not None and self._boxes[index] is not None
        cleaner = MaskCleaner(
            self.prompts[index], self.frame, self._functions.filter_pieces, clips_to_box=not is_guessed
        )
        return [cleaner.clean(each) for each in mask_logits]

    def _enlarged(self, index: int, mask_logits: NDArray[np.float32]) -> Mask:
        """Return a mask of a prompt at the resolution of the image or region, cleaned where that is asked for."""
        mask = self._functions.enlarge(mask_logits, self.frame)
        if self._cleanup == "none":
            return mask
        return self._functions.filter_enlarged(mask, marked_pixels(self.prompts[index], self.frame.size))

    def _placed(self, mask: Mask) -> Mask:
        """Return a mask of what is embedded as a mask of the whole image."""
        return placed(mask, self._image.region, self._image.size)

    def _alpha(self, logits: NDArray[np.float32], mask: Mask) -> Alpha:
        """Return the alpha of a mask of what is embedded, in the whole image."""
        alpha, region = soft_alpha(logits, self.frame, mask), self._image.region
        return alpha if region is None else alpha.placed(region, self._image.size)

    def add_and_finish(self, indices: Sequence[int], decoded: Decoded) -> Answer:
        """Do both, where one decoder call answers all prompts."""
        self.add(indices, decoded)
        return self.finish()

    def _identified(self, logits: NDArray[np.float32]) -> tuple[str, LowResMask]:
        """Return the id of a mask, and its logits in float16. The mask itself is enlarged from unlimited logits."""
        mask_logits = to_float16(logits, self._largest_logit)
        return id_of_mask(self._key.cache_key, mask_logits), mask_logits
