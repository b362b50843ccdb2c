"""Reading TIFF: the directory decides who reads the samples, and what is refused.

Pillow reads the usual 8-bit layouts. It guesses others wrong, so `tiff_samples` reads them: samples of 16 bits and
more, planes, and many bands.
"""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin  # noqa: F401 - the plugin is imported so that Image.open finds it

from service.errors import UndecodableImage
from service.sam.decoded_image import AppliedLevels, DecodedImage, ReadOptions
from service.sam.decoding.orientation import turned_upright
from service.sam.decoding.sample_levels import check_bands, grey_levels, level_range, with_options
from service.sam.decoding.tiff_directory import STRIP_OFFSETS, TILE_OFFSETS, Directory, Form, image_directory
from service.sam.decoding.tiff_layout import ASSOCIATED, GREY, NEGATIVE_GREY, Layout, check_meaning, layout_of
from service.sam.decoding.tiff_samples import read_samples
from service.sam.decoding.transparency import on_white
from service.sam.image_guards import ImageLimits, check_pieces, check_size

# Some programs say of any fourth band that it is opacity, near infrared for instance. In a mask of opacity most samples
# that are not 0 are opaque.
_OPAQUE_SHARE: Final = 0.5
_BLOCK_ROWS: Final = 256


def read_tiff(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return the image at full resolution, upright, in RGB on white.

    Args:
        data: The file.
        limits: Sizes that the model takes.
        options: How the samples are read.

    Raises:
        UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
        InvalidRequest: A band that was asked for does not exist.
    """
    directory = image_directory(data)
    layout = layout_of(directory, limits.max_pixels)
    check_size(layout.size, limits)
    check_pieces(max(directory.count(STRIP_OFFSETS), directory.count(TILE_OFFSETS)))
    check_meaning(layout, options)
    if options.bands is not None:
        check_bands(options.bands, layout.bands if layout.has_stored_bands else 3)
    # Pillow reads no big-endian BigTIFF.
    is_stored = layout.has_stored_bands and (options.bands is not None or directory.form == Form(">", is_big=True))
    if layout.is_for_pillow and not is_stored:
        image, levels = _by_pillow(directory, layout, options)
    else:
        image, levels = _by_samples(directory, layout, options, limits.max_pixels)
    return turned_upright(image, layout.orientation, levels=levels)


def _by_pillow(directory: Directory, layout: Layout, options: ReadOptions) -> tuple[Image.Image, AppliedLevels]:
    with Image.open(io.BytesIO(directory.as_first()), formats=["TIFF"]) as image:
        if (image.height, image.width) != layout.size:
            raise UndecodableImage("The directory of the TIFF contradicts itself; save the image again.")
        check_pieces(len(image.tile))
        image.info.pop("xmp", None)  # its orientation does not count
        image.load()
        if image.mode.startswith("I;16"):
            return _from_samples(np.asarray(image)[..., None], layout, options)
        rgb = _rgb(image, layout)
    if rgb is not image:
        image.close()  # otherwise its pixels stay in memory
    return with_options(rgb, options)


def _rgb(image: Image.Image, layout: Layout) -> Image.Image:
    if image.mode == "RGB":
        return image
    if layout.has_alpha and image.mode in ("LA", "RGBA"):
        counts = np.array(image.getchannel("A").histogram())
        if _is_opacity(int(counts[255]), int(counts[1:].sum())):
            return on_white(image)
        return Image.merge("RGB", image.split()[:3]) if image.mode == "RGBA" else image.getchannel("L").convert("RGB")
    return on_white(image) if image.has_transparency_data else image.convert("RGB")


def _by_samples(
    directory: Directory, layout: Layout, options: ReadOptions, max_pixels: int
) -> tuple[Image.Image, AppliedLevels]:
    is_grey = layout.photometric in (GREY, NEGATIVE_GREY) and layout.bands <= 2
    bands: tuple[int, ...] = options.bands or ((1,) if is_grey else (1, 2, 3))
    if options.bands is None and layout.bands < len(bands):
        raise UndecodableImage(f"The TIFF has RGB colours in {layout.bands} bands; save the image again.")
    if len(set(bands)) == 1:
        bands = bands[:1]
    has_alpha = layout.has_alpha and options.bands is None
    wanted = (*bands, layout.bands) if has_alpha else bands
    samples = read_samples(directory, layout, wanted, max_pixels)
    if not has_alpha:
        return _from_samples(samples, layout, options)
    colours, alpha = samples[..., :-1], samples[..., -1]
    image, levels = _from_samples(colours, layout, options)
    white = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1
    if not _is_opacity(int(np.count_nonzero(alpha == white)), int(np.count_nonzero(alpha))):
        return image, levels
    if layout.extra[0] == ASSOCIATED and not _is_premultiplied(colours, alpha):
        return image, levels
    return _over_white(image, alpha, layout, options), levels


def _from_samples(samples: NDArray[Any], layout: Layout, options: ReadOptions) -> tuple[Image.Image, AppliedLevels]:
    """Return samples, (H, W, 1) or (H, W, 3), in RGB."""
    chosen = level_range(samples, options.levels, full=_full_range(samples.dtype, layout.bits))
    levels = grey_levels(samples, chosen)
    if samples.shape[2] == 3:
        return Image.fromarray(levels), chosen.levels
    grey = levels[..., 0]
    return Image.fromarray(255 - grey if layout.photometric == NEGATIVE_GREY else grey).convert("RGB"), chosen.levels


def _full_range(dtype: "np.dtype[Any]", bits: int) -> tuple[float, float]:
    if dtype.kind == "f":
        return 0.0, 1.0
    if dtype.kind == "u":
        return 0.0, float(2**bits - 1)
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def _is_opacity(opaque: int, not_transparent: int) -> bool:
    return opaque > 0 and opaque >= _OPAQUE_SHARE * not_transparent


def _is_premultiplied(colours: NDArray[Any], alpha: NDArray[Any]) -> bool:
    return all(bool((colours[..., band] <= alpha).all()) for band in range(colours.shape[2]))


def _over_white(image: Image.Image, alpha: NDArray[Any], layout: Layout, options: ReadOptions) -> Image.Image:
    """Return the image on white.

    Args:
        image: Image of mode RGB.
        alpha: Opacity as stored, (H, W).
        layout: Layout of the image.
        options: How the samples are read.
    """
    chosen = level_range(alpha, "full", full=_full_range(alpha.dtype, layout.bits))
    opacity = Image.fromarray(grey_levels(alpha, chosen))
    page = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _BLOCK_ROWS):
        box = (0, top, image.width, min(top + _BLOCK_ROWS, image.height))
        layer, mask = image.crop(box), opacity.crop(box)
        if layout.extra[0] == ASSOCIATED and options.levels in ("auto", "full"):
            missing = 255 - np.asarray(mask, np.uint16)[..., None]  # white that the premultiplied colours leave out
            page.paste(Image.fromarray(np.minimum(np.asarray(layer) + missing, 255).astype(np.uint8)), box)
        else:
            page.paste(layer, box, mask)
    return page
