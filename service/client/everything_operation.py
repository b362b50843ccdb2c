"""Everything mode over an image, or over an image and the crops of SAM's generator."""

from typing import Any

from .crops import Crops, crop_boxes, merge_crops, points_per_side
from .everything import Everything, EverythingOptions, OnEvent, checked_options
from .everything_messages import EverythingReader, everything_request
from .operations import Operation, Together, id_of, region, send_about, work
from .retries import RetryPolicy
from .values import Box, Embedded

# More than the ids of one answer, so that those of different crops differ.
_IDS_PER_CROP = 100_000


def segment_everything(
    image: Embedded | str,
    options: EverythingOptions,
    crops: int | Crops,
    model: str | None,
    on_event: OnEvent | None,
    retry_policy: RetryPolicy,
) -> Operation[Everything]:
    """Find the masks of all objects of an image.

    With crops, the crops are embedded one after another while everything mode runs over the one before. The service
    runs everything mode for one request of a caller at a time.

    Raises:
        TypeError: if there is no option of a name.
        ValueError: if an option is malformed, or the image cannot have such crops.
    """
    document = checked_options(options)
    settings = crops if isinstance(crops, Crops) else Crops(crops)
    if settings.layers == 0:
        reader = EverythingReader(on_event)
        return (yield from _one(image, document, model, reader, retry_policy))
    if isinstance(image, str) or image.region is not None:
        raise ValueError("Crops need the result of embed for a whole image, as they are embedded from its file.")
    boxes = crop_boxes(image.width, image.height, settings)
    results: list[Everything] = []
    next_image = image
    for number in range(len(boxes) + 1):
        reader = EverythingReader(on_event, crop=number, crops=len(boxes) + 1, first_id=number * _IDS_PER_CROP)
        layer = boxes[number - 1].layer if number else 0
        sides = points_per_side(results[0].parameters if results else document, settings, layer)
        operation = _one(next_image, {**document, **sides}, model, reader, retry_policy)
        following = boxes[number].box if number < len(boxes) else None
        result, next_image = yield from _with_region(operation, image, following, model, retry_policy)
        results.append(result)
    return (yield from work(lambda: merge_crops(results, settings)))


def _one(
    image: Embedded | str,
    document: dict[str, Any],
    model: str | None,
    reader: EverythingReader,
    retry_policy: RetryPolicy,
) -> Operation[Everything]:
    request = everything_request(id_of(image), document, model, reader.read)
    return reader.result((yield from send_about(image, request, model, retry_policy)))


def _with_region(
    operation: Operation[Everything], image: Embedded, box: Box | None, model: str | None, retry_policy: RetryPolicy
) -> Operation[tuple[Everything, Embedded]]:
    """Run an operation, and embed the next region meanwhile."""
    if box is None:
        return (yield from operation), image
    result, embedded = yield Together((operation, region(image, box, model, retry_policy)))
    return result, embedded
