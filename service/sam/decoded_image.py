"""What decoding takes and gives: how an upload is read, and the upright image with what was done to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from service.sam.region import Region
from service.sam.transforms import Size

if TYPE_CHECKING:
    from PIL import Image

Levels = Literal["auto", "full", "minmax", "percentile"]
"""How samples of more than 8 bits become grey levels, as a client asks for it."""

AppliedLevels = Literal["full", "minmax", "percentile"]
"""How samples became grey levels. `full`: white is the largest number that the samples can hold."""

LEVELS: Final[tuple[Levels, ...]] = get_args(Levels)
APPLIED_LEVELS: Final[tuple[AppliedLevels, ...]] = get_args(AppliedLevels)

UPRIGHT: Final = 1
ORIENTATIONS: Final = range(1, 9)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How an upload is read.

    Args:
        levels: Conversion of samples to grey levels.
        bands: Numbers of the bands that become red, green and blue, from 1; None for the usual ones.
        region: Part of the upright image that is embedded; None for the whole image.
    """

    levels: Levels = "auto"
    bands: tuple[int, int, int] | None = None
    region: Region | None = None


USUAL: Final = ReadOptions()


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An upright image or a region of it, and what decoding did to it.

    Args:
        pixels: Pillow image of mode RGB, upright, perhaps at reduced scale; only the region where there is one.
        size: Height and width of the whole upright image at full resolution, pixels.
        orientation: EXIF orientation that was applied, 1 to 8; 1 for none.
        levels: Conversion of samples to grey levels that was applied. It follows from the whole image.
        region: Part of the image that `pixels` shows; None for the whole image.
    """

    pixels: "Image.Image"
    size: Size
    orientation: int = UPRIGHT
    levels: AppliedLevels = "full"
    region: Region | None = None

    @property
    def info(self) -> "ImageInfo":
        """What answers tell about the image."""
        return ImageInfo(self.size, self.orientation, self.levels, self.region)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What answers tell about an embedded image.

    Args:
        size: Height and width of the whole upright image at full resolution, pixels.
        orientation: EXIF orientation that was applied, 1 to 8; 1 for none.
        levels: Conversion of samples to grey levels that was applied.
        region: Part of the image that is embedded; None for the whole image.
    """

    size: Size
    orientation: int
    levels: AppliedLevels
    region: Region | None = None

    @property
    def encoded_size(self) -> Size:
        """Height and width of what is embedded, the region or the whole image, pixels."""
        return self.size if self.region is None else self.region.size
