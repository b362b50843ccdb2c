"""The image of an upload to /embed, and how its samples are read: from the query and from the fields of a form."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query
from pydantic import AfterValidator, WithJsonSchema

from service.api.bodies import (
    BANDS_FIELD,
    LEVELS_FIELD,
    MODEL_FIELD,
    MULTIPART_FIELD,
    MULTIPART_OVERHEAD_BYTES,
    REGION_FIELD,
    fields_of,
)
from service.api.json_images import check_beginning, json_fields
from service.api.problems import broken_rule
from service.api.schemas import MAX_MODEL_NAME
from service.inference.embed import Upload
from service.sam.decoded_image import USUAL, Levels, ReadOptions
from service.sam.image_id import BANDS_PATTERN, WHOLE_PATTERN, ImageId, parse_bands, parse_image_id, parse_levels
from service.sam.region import REGION_PATTERN, parse_region

Value = TypeVar("Value")

LevelsQuery = Annotated[
    Levels,
    Query(
        description="How samples become grey levels. auto: 8-bit samples and 16-bit samples that use their range stay "
        "as they are, and darker ones are stretched. full: white is the largest number of the type. minmax: from the "
        "smallest to the largest sample. percentile: from the 2nd to the 98th percentile. Also a field of a form."
    ),
]
BandsQuery = Annotated[
    str | None,
    AfterValidator(lambda text: text if text is None else ",".join(map(str, parse_bands(text)))),
    WithJsonSchema({"type": "string", "pattern": f"^{BANDS_PATTERN}$"}),
    Query(
        description="Numbers of the bands for red, green and blue, from 1, such as 4,3,2. Without it the first three. "
        "Also a field of a form."
    ),
]
RegionQuery = Annotated[
    str | None,
    AfterValidator(lambda text: text if text is None else str(parse_region(text))),
    WithJsonSchema({"type": "string", "pattern": f"^{REGION_PATTERN}$"}),
    Query(
        description="Part of the image to embed at its own resolution: x0,y0,x1,y1 in pixels of the upright image, x1 "
        "and y1 exclusive, at least 32 pixels a side. Prompts and masks stay in pixels of the whole image. Also a "
        "field of a form."
    ),
]
KeptImageQuery = Annotated[
    str | None,
    AfterValidator(lambda text: text if text is None else str(parse_image_id(text))),
    WithJsonSchema({"type": "string", "pattern": f"^[0-9A-Fa-f]{{64}}{WHOLE_PATTERN}$"}),
    Query(
        description="Image to embed from the copy that is kept of an earlier upload, with an empty body: its SHA-256, "
        "or its `image_id` without a region. `features.keeps_images` in /models tells whether copies are kept."
    ),
]

ModelQuery = Annotated[
    str | None,
    Query(max_length=MAX_MODEL_NAME, description="Name of the model, as in /models. Without it the first model there."),
]

_FORM_VALUE_BYTES: Final = MAX_MODEL_NAME + 1  # more than of the longest value


@dataclass(frozen=True, slots=True)
class AskedReading:
    """How an image is read, as the query says.

    Args:
        levels: Levels.
        bands: Bands as text; None for the usual ones.
        region: Region as text; None for the whole image.
        model: Name of the model; None for the default.
    """

    levels: Levels
    bands: str | None
    region: str | None
    model: str | None

    @property
    def options(self) -> ReadOptions:
        """The same without the model, parsed."""
        return ReadOptions(
            self.levels,
            None if self.bands is None else parse_bands(self.bands),
            None if self.region is None else parse_region(self.region),
        )


def max_upload_bytes(content_type: str, max_image_bytes: int) -> int:
    """Return the size of the largest body of an upload, in bytes.

    Args:
        content_type: Value of Content-Type; empty if the request has none.
        max_image_bytes: Size of the largest image, in bytes.
    """
    if _is_json(content_type):
        # Base64 takes 4/3, and with a line end after every 76 characters 1.37.
        return max_image_bytes * 11 // 8 + MULTIPART_OVERHEAD_BYTES
    return max_image_bytes + (MULTIPART_OVERHEAD_BYTES if content_type.startswith("multipart/") else 0)


def kept_image(image_hash: str, asked: AskedReading) -> ImageId:
    """Return the image of an upload without bytes.

    Args:
        image_hash: Hash or id of the image, from the query.
        asked: How it is read.

    Raises:
        InvalidRequest: The id has a region, or contradicts the rest of the query.
    """
    image, options = parse_image_id(image_hash), asked.options
    if image.options.region is not None:
        raise broken_rule("/image_hash", "it has a region. Send the id of the whole image, and the region beside it.")
    for name, named, queried, usual in (
        (LEVELS_FIELD, image.options.levels, options.levels, USUAL.levels),
        (BANDS_FIELD, image.options.bands, options.bands, USUAL.bands),
    ):
        if queried != usual and named not in (queried, usual):
            raise broken_rule(f"/{name}", f"image_hash and the query have different {name}. Send one of them.")
    levels = image.options.levels if options.levels == USUAL.levels else options.levels
    return replace(image, options=ReadOptions(levels, options.bands or image.options.bands, options.region))


def upload_of(body: bytes, *, content_type: str, asked: AskedReading, max_image_bytes: int) -> Upload:
    """Return the image in the body of an upload, how it is read, and the model that embeds it. Blocking.

    Args:
        body: Body of an upload: raw, multipart or JSON.
        content_type: Value of Content-Type; empty if the request has none.
        asked: How the image is read, as the query says.
        max_image_bytes: Size of the largest image, in bytes.

    Raises:
        UnsupportedImage, MalformedBody, BodyTooLarge: Errors of `fields_of`, `json_fields` and `check_beginning`.
        InvalidRequest: A field of the form has no valid value, or contradicts the query.
    """
    is_json = _is_json(content_type)
    fields = json_fields(body, max_image_bytes=max_image_bytes) if is_json else fields_of(body, content_type)
    check_beginning(fields[MULTIPART_FIELD])
    asked_levels = _field(fields, LEVELS_FIELD, parse_levels)
    asked_bands = _field(fields, BANDS_FIELD, parse_bands)
    asked_region = _field(fields, REGION_FIELD, parse_region)
    asked_model = _field(fields, MODEL_FIELD, str)
    queried = asked.options
    compared: tuple[tuple[str, Any, Any, Any], ...] = (
        (LEVELS_FIELD, queried.levels, asked_levels, USUAL.levels),
        (BANDS_FIELD, queried.bands, asked_bands, USUAL.bands),
        (REGION_FIELD, queried.region, asked_region, USUAL.region),
        (MODEL_FIELD, asked.model, asked_model, None),
    )
    for name, query, form, usual in compared:
        if form is not None and query not in (form, usual):
            raise broken_rule(f"/{name}", f"the query and the form have different {name}. Send one of them.")
    options = ReadOptions(asked_levels or queried.levels, asked_bands or queried.bands, asked_region or queried.region)
    return Upload(fields[MULTIPART_FIELD], options, asked.model if asked_model is None else asked_model)


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _field(fields: dict[str, bytes], name: str, parse: Callable[[str], Value]) -> Value | None:
    if name not in fields:
        return None
    try:
        return parse(fields[name][:_FORM_VALUE_BYTES].decode(errors="replace").strip())
    except ValueError as error:
        raise broken_rule(f"/{name}", f"{error}.") from error
