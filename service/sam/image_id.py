"""The public id of an image: the hash of its bytes, and how they are read where that is not the usual way.

    hash | hash~levels=percentile | hash~bands=4,3,2 | hash~region=0,0,640,480
    hash~levels=percentile~bands=4,3,2~region=0,0,640,480

Every set of options has one text: defaults are left out, and the options have one order.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from service.sam.decoded_image import LEVELS, USUAL, Levels, ReadOptions
from service.sam.region import REGION_PATTERN, parse_region

_SEPARATOR: Final = "~"
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
BANDS_PATTERN: Final = r"[1-9][0-9]{0,3}(?:,[1-9][0-9]{0,3}){2}"
_BANDS: Final = re.compile(BANDS_PATTERN, re.ASCII)

WHOLE_PATTERN: Final = rf"(?:~levels=(?:full|minmax|percentile))?(?:~bands={BANDS_PATTERN})?"
"""Regular expression of everything behind the hash of a whole image; it also matches "", the usual way."""

VARIANT_PATTERN: Final = rf"{WHOLE_PATTERN}(?:~region={REGION_PATTERN})?"
"""Regular expression of everything behind the hash; it also matches "", the usual way."""


@dataclass(frozen=True, slots=True)
class ImageId:
    """An image, and how its bytes are read. `str` gives the public text.

    Args:
        image_hash: SHA-256 of the uploaded bytes, 64 lower-case hexadecimal digits.
        options: How the bytes are read.
    """

    image_hash: str
    options: ReadOptions = USUAL

    def __str__(self) -> str:
        """Return the public text."""
        parts = [self.image_hash]
        if self.options.levels != USUAL.levels:
            parts.append(f"levels={self.options.levels}")
        if self.options.bands is not None:
            parts.append(f"bands={','.join(map(str, self.options.bands))}")
        if self.options.region is not None:
            parts.append(f"region={self.options.region}")
        return _SEPARATOR.join(parts)

    @property
    def whole(self) -> "ImageId":
        """The whole image, read in the same way."""
        return replace(self, options=replace(self.options, region=None))


def parse_image_id(text: str) -> ImageId:
    """Return the image that a public text names. Upper-case digits of the hash are accepted.

    Raises:
        ValueError: The text is no id of an image. The message says which ids there are.
    """
    image_hash, *options = text.split(_SEPARATOR)
    if not _HASH.fullmatch(image_hash):
        raise ValueError("an image_id begins with the SHA-256 of the uploaded bytes, 64 hexadecimal digits")
    found = ImageId(image_hash.lower(), _options(options))
    if str(found) != _SEPARATOR.join((found.image_hash, *options)):
        raise ValueError(
            f"this image_id is written {found}: levels, bands and region in this order, each once, without defaults"
        )
    return found


def parse_levels(text: str) -> Levels:
    """Return the levels that a client names.

    Raises:
        ValueError: There are no such levels. The message names the choices.
    """
    for levels in LEVELS:
        if text == levels:
            return levels
    raise ValueError(f"levels is one of {', '.join(LEVELS)}")


def parse_bands(text: str) -> tuple[int, int, int]:
    """Return the bands that a client names.

    Raises:
        ValueError: The text is no list of three numbers of bands.
    """
    if not _BANDS.fullmatch(text):
        raise ValueError("bands are three numbers from 1 to 9999 for red, green and blue, such as bands=4,3,2")
    red, green, blue = map(int, text.split(","))
    return red, green, blue


def _options(parts: list[str]) -> ReadOptions:
    levels, bands, region = USUAL.levels, USUAL.bands, USUAL.region
    for part in parts:
        name, _, value = part.partition("=")
        if name == "levels":
            levels = parse_levels(value)
        elif name == "bands":
            bands = parse_bands(value)
        elif name == "region":
            region = parse_region(value)
        else:
            raise ValueError("behind the hash, an image_id has ~levels=…, ~bands=… or ~region=… and nothing else")
    return ReadOptions(levels, bands, region)
