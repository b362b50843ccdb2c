"""Generators of masks, logits and files for several tests of this folder."""

import io
import struct

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from service.sam.frame import Frame
from service.sam.images import decode_image
from service.sam.masks import BinaryMask


@st.composite
def sizes(draw, largest=700):
    """Draw (H, W) of valid images: small, narrow and large ones."""
    long = round(2 ** draw(st.floats(0, float(np.log2(largest)))))
    shortest = max(1, -(-long // 2000))
    short = round(shortest * (long / shortest) ** draw(st.floats(0, 1)))
    return (long, short) if draw(st.booleans()) else (short, long)


@st.composite
def frames(draw, largest=700):
    """Draw images of valid sizes in the frame, letterboxed and stretched."""
    return Frame(draw(sizes(largest)), draw(st.sampled_from(["letterbox", "stretch"])))


@st.composite
def logits(draw):
    """(256, 256) float32 of many kinds: blobs, noise, constants, single pixels, plateaus of exactly 0."""
    kind = draw(st.sampled_from(["blobs", "noise", "sparse noise", "constant", "pixel", "stripes", "plateaus"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.01, 1.0, 30.0]))
    y, x = np.mgrid[:256, :256].astype(np.float32)
    if kind == "blobs":
        found = np.full((256, 256), -100.0)
        for _ in range(draw(st.integers(1, 4))):
            centre_y, centre_x, radius = rng.uniform(-20, 276), rng.uniform(-20, 276), rng.uniform(0.5, 120)
            found = np.maximum(found, radius - np.hypot(y - centre_y, (x - centre_x) * rng.uniform(0.5, 2)))
    elif kind == "noise":
        found = rng.normal(size=(256, 256))
    elif kind == "sparse noise":
        found = rng.normal(size=(256, 256)) - 3.0
    elif kind == "constant":
        found = np.full((256, 256), draw(st.sampled_from([-1.0, 0.0, 1.0])))
    elif kind == "pixel":
        found = np.full((256, 256), -1.0)
        found[rng.integers(0, 256), rng.integers(0, 256)] = draw(st.sampled_from([0.5, 20.0]))
    elif kind == "stripes":
        found = np.sin(x * rng.uniform(0.1, 3) + y * rng.uniform(0.1, 3)) - rng.uniform(-1, 1)
    else:
        found = rng.integers(-1, 2, size=(256, 256))
    return (found * scale).astype(np.float32)


@st.composite
def masks(draw, largest=40):
    """(H, W) bool: noise of any density, discs with holes, boards, full, empty."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "rings", "board", "full", "empty", "pixel"]))
    y, x = np.mgrid[:height, :width]
    if kind == "noise":
        return rng.random((height, width)) < draw(st.floats(0, 1))
    if kind == "rings":
        return np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) % rng.uniform(2, 9) < rng.uniform(1, 6)
    if kind == "board":
        return (x // draw(st.integers(1, 3)) + y // draw(st.integers(1, 3))) % 2 == 0
    mask = np.full((height, width), kind == "full")
    if kind == "pixel":
        mask[rng.integers(0, height), rng.integers(0, width)] = True
    return mask


def gradient(height=48, width=60):
    """Return a smooth RGB image without any symmetry, (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack((y * 200 // height, x * 250 // width, 255 - (x + y) * 120 // (height + width)), 2).astype(np.uint8)


def encoded(image, file_format, **options):
    """Return an image as a file; arrays are converted by Pillow's rules."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff(size, bits, data, *, photometric=1, samples=1, sample_format=1, extra=()):
    """Return a little-endian, uncompressed TIFF of one strip, for kinds of files that Pillow does not write.

    Args:
        size: Height and width of the image, pixels.
        bits: Number of bits of each sample.
        data: Bytes of the only strip.
        photometric: Photometric interpretation: 0 white is zero, 1 black is zero, 2 RGB, 8 Lab.
        samples: Number of samples of each pixel.
        sample_format: Type of the samples: 1 unsigned, 2 signed, 3 float.
        extra: Further tags of type long, as (tag, value).
    """
    bits_offset = 8 + len(data) + len(data) % 2
    tags = {
        256: (4, 1, size[1]), 257: (4, 1, size[0]), 258: (3, samples, bits if samples == 1 else bits_offset),
        259: (3, 1, 1), 262: (3, 1, photometric), 273: (4, 1, 8), 277: (3, 1, samples), 278: (4, 1, size[0]),
        279: (4, 1, len(data)), 339: (3, 1, sample_format), **{tag: (4, 1, value) for tag, value in extra},
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    strip = data + b"\0" * (len(data) % 2) + struct.pack(f"<{samples}H", *[bits] * samples)
    head = b"II*\0" + struct.pack("<I", 8 + len(strip))
    return head + strip + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def decode_array(data, *, max_pixels):
    """Return the result of `decode_image` as an array, (H, W, 3) uint8."""
    return np.asarray(decode_image(data, max_pixels=max_pixels).pixels)


def files_of_every_kind():
    """Return small files, one for each code path of the decoder."""
    image = Image.fromarray(gradient(24, 30))
    turned, exif = image.transpose(Image.Transpose.ROTATE_180), Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [turned]}
    return [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "MPO", **frames),
        encoded(image, "PNG", exif=exif),
        encoded(image.quantize(16), "PNG", transparency=3),
        encoded(image, "PNG", **frames),
        encoded(image.convert("P"), "GIF", save_all=True, append_images=[turned.convert("P")]),
        encoded(image, "WEBP", exif=exif),
        encoded(image.convert("RGBA"), "WEBP", lossless=True, **frames),
        encoded(image, "AVIF", exif=exif),
        encoded(image, "AVIF", **frames),
        encoded(image.convert("RGBA"), "AVIF"),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
        encoded(image, "TIFF", exif=exif),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image.convert("1"), "TIFF", compression="group4"),
    ]


def pixels_of(rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def placed(pixels, margins):
    """Return the pixels inside a larger image, with (left, top, right, bottom) empty columns and rows."""
    left, top, right, bottom = margins
    full = np.pad(pixels, ((top, bottom), (left, right)))
    return full, BinaryMask.cut(full.shape, 0, 0, full)


margins = st.tuples(*[st.sampled_from([0, 0, 1, 7, 8, 13])] * 4)
