"""Everything mode for adapters: proposals for an image without prompts, few enough for people to check."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from service.api.request_context import request_context
from service.inference.everything import Dropped, Finished
from service.inference.everything_answers import Begun, EverythingAnswers, Written
from service.inference.scheduling.admission import OnePerCaller
from service.inference.served_models import ServedModel
from service.sam.decoded_image import ImageInfo
from service.sam.everything.record import MaskRecord
from service.sam.transforms import Size


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """The proposals for one image.

    Args:
        image: Size and orientation of the image.
        masks: Masks, the best first.
    """

    image: ImageInfo
    masks: Sequence[MaskRecord]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Access of adapters to everything mode, with the permits of /segment/everything.

    Args:
        answers: Use case that finds the masks.
        permits: Permits of everything requests.
        max_masks: Largest number of masks of an image, at least 1.
        max_points_per_side: Largest number of points along each side of the grid.
        timeout_s: Time limit of one image, in seconds.
    """

    answers: EverythingAnswers
    permits: OnePerCaller
    max_masks: int
    max_points_per_side: int
    timeout_s: float

    async def find(self, request: Request, image_id: str, model: ServedModel) -> FoundObjects:
        """Return the masks of all objects of an embedded image, by the model's own options and `fast`.

        Args:
            request: Request whose log line gets the number of masks.
            image_id: Id of the image.
            model: Model that segments.

        Raises:
            RateLimited, Overloaded: The API key, or the process, has as many everything requests as it may have.
            ServiceError: Errors of `EverythingAnswers.answer`.
        """
        given = {"max_masks": self.max_masks, "fast": True}
        options = model.manifest.everything_defaults.options(given, max_points_per_side=self.max_points_per_side)
        masks: dict[int, MaskRecord] = {}
        begun: Begun | None = None
        with self.permits.permit(request.state.caller.name):
            context = request_context(request, timeout_s=self.timeout_s, work="Finding all objects")
            events = self.answers.answer(model, image_id, options, _nothing, context)
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Begun():
                            begun = event
                            request.state.prompts = event.prompts
                            if not event.is_cached:
                                request.state.objective = "everything"
                        case Written(record, _):
                            masks[record.id] = record
                        case Dropped(ids):
                            for each in ids:
                                del masks[each]
                        case Finished(ids):
                            assert begun is not None
                            request.state.masks, request.state.model = len(ids), model.name
                            return FoundObjects(begun.image, [masks[each] for each in ids])
        raise AssertionError("The events end without a result. This is a bug.")


def _nothing(_record: MaskRecord, _size: Size) -> bytes:
    """Write nothing: the adapter writes the masks of the result, not those that are dropped again."""
    return b""
