"""Reading PNG: colour keys of all depths, and samples of 16 bits."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin  # noqa: F401 - the plugin is imported so that Image.open finds it

from service.sam.decoded_image import AppliedLevels, DecodedImage, ReadOptions
from service.sam.decoding.joined_file import joined_file
from service.sam.decoding.orientation import turned_upright
from service.sam.decoding.png_chunks import GREY, GREY_ALPHA, PngPixels, png_pixels
from service.sam.decoding.sample_levels import grey_levels, level_range, with_options
from service.sam.decoding.transparency import bands, on_white, to_rgb, whiten_colour
from service.sam.image_guards import ImageLimits, check_shape

# Samples whose high bytes are all smaller are below a quarter of white, so that `level_range` may stretch them.
_DARK_HIGH_BYTE = 64


def read_png(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return the image, or the first frame of an animation, upright and on white.

    Args:
        data: The file.
        limits: Sizes that the model takes.
        options: How the samples are read.

    Raises:
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
        InvalidRequest: A band that was asked for does not exist.
    """
    png = png_pixels(data, limits.max_pixels)
    check_shape(png.size, limits)
    with Image.open(joined_file(png.parts), formats=["PNG"]) as image:
        image.load()
        page, levels = _rgb(image, png, options)
    if page is not image:
        image.close()
    if page.size != (png.size[1], png.size[0]):
        frame, page = page, Image.new("RGB", (png.size[1], png.size[0]), "white")
        page.paste(frame, png.offset)
    return turned_upright(page, png.orientation, levels=levels)


def _rgb(image: Image.Image, png: PngPixels, options: ReadOptions) -> tuple[Image.Image, AppliedLevels]:
    if png.depth == 16 and _needs_low_bytes(image, png, options):
        return _from_wide_samples(image, png, options)
    page = to_rgb(image)
    if png.colour_key:
        scale = 255 // ((1 << png.depth) - 1)  # Pillow spreads fewer bits over 0 to 255
        samples = image.convert("L") if image.mode == "1" else image
        page = page.copy() if page is image else page
        whiten_colour(page, samples, tuple(sample * scale for sample in png.colour_key))
    return with_options(page, options)


def _needs_low_bytes(image: Image.Image, png: PngPixels, options: ReadOptions) -> bool:
    """Return whether the high bytes of 16-bit samples, which Pillow gives for colours, are not enough."""
    if png.kind == GREY or png.colour_key or options.levels not in {"auto", "full"}:
        return True
    colours = image.split()[: 1 if png.kind == GREY_ALPHA else 3]
    is_dark = not any(any(channel.histogram()[_DARK_HIGH_BYTE:]) for channel in colours)
    return options.levels == "auto" and is_dark


def _from_wide_samples(image: Image.Image, png: PngPixels, options: ReadOptions) -> tuple[Image.Image, AppliedLevels]:
    if png.kind == GREY:
        samples = np.asarray(image)
    else:
        samples = _wide_grey(png) if png.kind == GREY_ALPHA else _wide_samples(image, png)
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    chosen = level_range(samples, options.levels, full=(0.0, 65535.0))
    if chosen.levels == "full" and image.mode == "RGB":
        page = image.copy()
    else:
        image.close()  # frees a quarter of the memory
        page = Image.fromarray(grey_levels(samples, chosen))
        page = page.convert("RGB") if page.mode == "L" else page
    page, _ = with_options(page, ReadOptions("full", options.bands))
    if png.colour_key:
        whiten_colour(page, samples, png.colour_key)
    del samples  # three quarters of the memory
    if alpha is not None:
        page.putalpha(alpha)
        page = on_white(page)
    return page, chosen.levels


def _wide_grey(png: PngPixels) -> NDArray[np.uint16]:
    """Return the grey of 16 bits beside alpha, (H, W). Pillow gives only its high bytes."""
    with Image.open(joined_file(png.parts_by_byte), formats=["PNG"]) as image:
        samples = np.empty((image.height, image.width), np.uint16)
        image.load()
        for box in bands(image):
            pixels = np.asarray(image.crop(box))
            rows = samples[box[1] : box[3]]
            rows[:] = pixels[..., 0]
            rows <<= 8
            rows |= pixels[..., 1]
    return samples


def _wide_samples(image: Image.Image, png: PngPixels) -> NDArray[np.uint16]:
    """Return colours of 16 bits, (H, W, 3), from an image with their high bytes."""
    samples = np.empty((image.height, image.width, 3), np.uint16)
    with _low_bytes(png) as low:
        for box in bands(image):
            rows = samples[box[1] : box[3]]
            rows[:] = np.asarray(image.crop(box))[..., :3]
            rows <<= 8
            rows |= np.asarray(low.crop(box))[..., :3]
    return samples


def _low_bytes(png: PngPixels) -> Image.Image:
    """Return the low bytes of 16-bit colour. Pillow gives the high ones, but two colours may differ in the low ones."""
    image = Image.open(joined_file(png.parts), formats=["PNG"])
    (tile,) = image.tile
    # Little-endian, so that the last byte of a sample counts as the high one.
    image.tile = [tile._replace(args=f"{image.mode};16L")]
    image.load()
    return image
