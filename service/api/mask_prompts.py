"""The binary mask of a prompt in JSON: a PNG in base64, or COCO run lengths."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from service.api.json_images import decode_base64
from service.api.problems import UNION_TAG, broken_rule
from service.errors import ServiceError
from service.sam.mask_prompts import EncodedMask, PngMask, RleMask

# Runs of the masks of one request, together. So many take some milliseconds.
MAX_RUNS = 1 << 18
_MAX_RLE_CHARACTERS = 1 << 20
_MAX_PNG_CHARACTERS = 1 << 23


def _kind(value: object) -> str:
    return f"{UNION_TAG}text" if isinstance(value, str) else f"{UNION_TAG}other"


# The type of a value decides which choice of a union it is. So a mistake is reported once, where it is.
_Text = Tag(f"{UNION_TAG}text")
_Other = Tag(f"{UNION_TAG}other")


class RleMaskModel(BaseModel):
    """A binary mask as COCO run lengths: column after column, first outside the mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1 << 20)], Annotated[int, Field(ge=1, le=1 << 20)]],
        Field(description="height, width; those of the upright image"),
    ]
    counts: Annotated[
        Annotated[str, Field(max_length=_MAX_RLE_CHARACTERS), _Text]
        # One finding is enough: a quarter of a million would keep the event loop waiting for a second.
        | Annotated[list[Annotated[int, Field(ge=0, le=1 << 40)]], Field(max_length=MAX_RUNS, fail_fast=True), _Other],
        Discriminator(_kind),
        Field(description="Run lengths, as COCO's compressed text or as numbers."),
    ]


MaskField = Annotated[
    Annotated[
        Annotated[str, Field(max_length=_MAX_PNG_CHARACTERS), _Text] | Annotated[RleMaskModel, _Other],
        Discriminator(_kind),
    ]
    | None,
    Field(
        description="Binary mask of the image's size: a PNG in base64 or as a data: URI, or COCO run lengths. In a PNG "
        "the pixels that are neither black nor transparent are inside."
    ),
]


def encoded_mask(mask: str | RleMaskModel, where: str) -> EncodedMask:
    """Return the mask of a prompt, not decoded yet. Blocking: base64 may have megabytes.

    Args:
        mask: Member `mask` of the prompt.
        where: JSON pointer to it.

    Raises:
        InvalidRequest: The text is not a PNG in base64.
    """
    if isinstance(mask, RleMaskModel):
        return RleMask(mask.size, mask.counts)
    try:
        return PngMask.of(decode_base64(mask.encode(), max_bytes=_MAX_PNG_CHARACTERS))
    except ServiceError as error:
        raise broken_rule(where, error.detail) from error
