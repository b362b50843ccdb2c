"""What the directory of a TIFF says about its samples, who reads them, and what is refused."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImage
from service.sam.decoded_image import ORIENTATIONS, UPRIGHT, ReadOptions
from service.sam.decoding.tiff_directory import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    FILL_ORDER,
    HEIGHT,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    SAMPLE_FORMAT,
    SAMPLES,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    Directory,
)
from service.sam.transforms import Size

NEGATIVE_GREY, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
CONTIGUOUS: Final = 1
ASSOCIATED: Final = 1

# Compressions of bytes of any meaning: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard.
BYTE_COMPRESSIONS: Final = {1, 5, 8, 32946, 32773, 34925, 50000}

_COLOURS: Final = {NEGATIVE_GREY: 1, GREY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_OTHER_COLOURS: Final = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_KINDS: Final = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f", _UNDEFINED: "u"}
_FORMATS: Final = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "float", _UNDEFINED: "undefined"}
_ALPHA: Final = {ASSOCIATED, 2}
_MAX_BANDS: Final = 9999
_USUAL_BANDS: Final = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """The samples of an image.

    Args:
        size: Height and width as stored, pixels.
        bands: Number of samples of a pixel.
        bits: Bits of a sample; 0 where they differ between bands.
        sample_format: Type of the samples; 0 where it differs between bands.
        photometric: Meaning of the bands.
        compression: Number of the compression.
        is_together: Whether the bands of a pixel lie together. Otherwise each band is a plane.
        extra: Meaning of each band behind those of the colour.
        orientation: Orientation that makes the image upright, 1 to 8.
    """

    size: Size
    bands: int
    bits: int
    sample_format: int
    photometric: int
    compression: int
    is_together: bool
    extra: tuple[int, ...]
    orientation: int

    @property
    def named(self) -> str:
        """Bands, bits and sample format, for messages."""
        bits = f"{self.bits}-bit " if self.bits else ""
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        return f"{bands} of {bits}samples (sample format: {_FORMATS.get(self.sample_format, 'other')})"

    @property
    def is_unsigned(self) -> bool:
        """Whether samples are whole numbers from 0."""
        return _KINDS.get(self.sample_format) == "u"

    @property
    def has_usual_bands(self) -> bool:
        """Whether the bands are those of the colour, with at most one more."""
        colours = _COLOURS.get(self.photometric, 0)
        return colours > 0 and self.bands in (colours, colours + 1)

    @property
    def has_alpha(self) -> bool:
        """Whether the file says that the last band is opacity, which some programs say of any fourth band."""
        is_marked = len(self.extra) == 1 and self.extra[0] in _ALPHA
        return is_marked and self.photometric in (GREY, RGB) and self.bands == _COLOURS[self.photometric] + 1

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow reads the samples right."""
        is_small = 0 < self.bits <= 8 or (self.bits == 12 and self.bands == 1)
        is_known = is_small or (self.bits == 16 and self.photometric == CMYK)
        is_together = self.is_together or self.bands == 1
        # Pillow divides by an associated alpha, which may be no alpha.
        is_divided = self.has_alpha and self.extra[0] == ASSOCIATED and self.has_stored_bands
        return is_known and is_together and self.has_usual_bands and self.is_unsigned and not is_divided

    @property
    def has_stored_bands(self) -> bool:
        """Whether the bands can be read one by one as they are stored."""
        return (
            self.photometric in (NEGATIVE_GREY, GREY, RGB)
            and self.compression in BYTE_COMPRESSIONS
            and self.bits in (8, 16, 32, 64)
        )

    @property
    def dtype(self) -> "np.dtype[np.generic]":
        """NumPy type of a sample, in the byte order of this machine.

        Raises:
            UnsupportedImage: There is none.
        """
        sizes = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
        kind = _KINDS.get(self.sample_format, "")
        if self.bits not in sizes.get(kind, ()) or self.photometric not in (NEGATIVE_GREY, GREY, RGB):
            raise UnsupportedImage(
                f"The TIFF has {self.named} in a form that is not read. Save the image as RGB with 8 or 16 bits."
            )
        return np.dtype(f"{kind}{self.bits // 8}")


def layout_of(directory: Directory, max_pixels: int) -> Layout:
    """Return the layout of the image of a directory.

    Args:
        directory: Directory of the image.
        max_pixels: Largest number of pixels of a tile.

    Raises:
        UndecodableImage: The numbers contradict each other.
        ImageTooLarge: Its tiles are larger than an image may be.
        UnsupportedImage: The bits of each byte are reversed.
    """
    bands = directory.number(SAMPLES, 1)
    bits = {int(each) for each in directory.values(BITS)} or {1}
    formats = {int(each) for each in directory.values(SAMPLE_FORMAT)} or {_UNSIGNED}
    if not 0 < bands <= _MAX_BANDS:
        raise UndecodableImage(f"The TIFF has {bands} bands; 1 to {_MAX_BANDS} are read.")
    width, height = directory.number(TILE_WIDTH, 0), directory.number(TILE_HEIGHT, 0)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The TIFF has tiles of {width} x {height} pixels, at most {max_pixels} are taken; "
            "save it with smaller tiles.",
            extra={"limit": max_pixels},
        )
    orientation = directory.number(ORIENTATION, UPRIGHT) if directory.count(ORIENTATION) == 1 else UPRIGHT
    layout = Layout(
        size=(directory.number(HEIGHT, 0), directory.number(WIDTH, 0)),
        bands=bands,
        bits=bits.pop() if len(bits) == 1 else 0,
        sample_format=formats.pop() if len(formats) == 1 else 0,
        photometric=directory.number(PHOTOMETRIC, GREY),
        compression=directory.number(COMPRESSION, 1),
        is_together=directory.number(PLANAR, CONTIGUOUS) == CONTIGUOUS,
        extra=tuple(int(each) for each in directory.values(EXTRA_SAMPLES)[:_MAX_BANDS]),
        orientation=orientation if orientation in ORIENTATIONS else UPRIGHT,
    )
    if directory.number(FILL_ORDER, 1) != 1 and not layout.is_for_pillow:
        raise UnsupportedImage("The bits of each byte of the TIFF are reversed; save the image again.")
    return layout


def check_meaning(layout: Layout, options: ReadOptions) -> None:
    """Refuse colours without a conversion, and samples without a white unless levels are given.

    Args:
        layout: Layout of the image.
        options: How the samples are read.

    Raises:
        UnsupportedImage: The message names what the image has, and what to send.
    """
    if layout.photometric not in _COLOURS:
        name = _OTHER_COLOURS.get(layout.photometric, f"of kind {layout.photometric}")
        raise UnsupportedImage(f"The colours of the TIFF are {name}; save the image as RGB.")
    has_white = layout.is_unsigned and layout.bits <= 16
    is_chosen = layout.bands <= _USUAL_BANDS or layout.has_usual_bands or options.bands is not None
    if options.levels == "auto" and not (has_white and is_chosen):
        if layout.is_for_pillow:
            return
        layout.dtype  # noqa: B018 - refuses what no levels can read
        reason = "more bands than colours" if has_white else "samples whose black and white are not defined"
        raise UnsupportedImage(
            f"The TIFF has {layout.named}: {reason}. Send levels=minmax, levels=percentile or levels=full to read it"
            + (", and bands=4,3,2 or the like for other bands than the first three" if layout.bands > 1 else "")
            + ". Or save it with 8 or 16 bits per sample and at most four bands.",
            extra={"bands": layout.bands, "bits": layout.bits, "sample_format": _FORMATS[layout.sample_format]},
        )
