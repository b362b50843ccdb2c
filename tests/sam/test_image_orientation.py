"""The orientation is applied by the rule of browsers, and the decoded image tells which one it was."""

import numpy as np
import pytest
from PIL import Image
from sam.jpeg_files import segment, with_segments
from sam.png_files import chunk, exif, png
from sam.sample_values import encoded, gradient

from service.sam.images import decode_image

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
IMAGE = gradient(16, 24)
JPEG = encoded(IMAGE, "JPEG", quality=100, subsampling=0)


def with_orientation(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def decoded(data):
    return decode_image(data, max_pixels=1_000_000)


def in_jpeg(*blocks):
    return with_segments(JPEG, *[segment(0xE1, b"Exif\0\0" + block) for block in blocks])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_reported(file_format, orientation):
    upright = IMAGE
    # The pixels that a camera stores: the rotation in the EXIF block gives the upright image.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    lossy = {"quality": 100, "subsampling": "4:4:4"}
    options = lossy if file_format in {"JPEG", "AVIF"} else {}

    found = decoded(encoded(np.ascontiguousarray(stored), file_format, exif=with_orientation(orientation), **options))

    assert found.size == upright.shape[:2]
    assert found.orientation == orientation
    assert np.abs(np.asarray(found.pixels).astype(int) - upright).max() <= (4 if lossy == options else 0)


@pytest.mark.parametrize(
    "data",
    [
        in_jpeg(exif(6)),
        in_jpeg(exif(6, order=">")),
        in_jpeg(exif(6), exif(3)),
        png(IMAGE, before=chunk(b"eXIf", exif(6))),
        png(IMAGE, before=chunk(b"eXIf", exif(6)) + chunk(b"eXIf", exif(3))),
    ],
    ids=["JPEG", "big-endian", "two in JPEG", "PNG", "two in PNG"],
)
def test_the_first_exif_block_counts(data):
    found = decoded(data)

    assert found.orientation == 6
    assert found.size == (24, 16)


@pytest.mark.parametrize(
    "data",
    [
        with_segments(JPEG, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        in_jpeg(b"zzzz", exif(3)),
        in_jpeg(exif(6, kind=4)),
        in_jpeg(exif(0)),
        in_jpeg(exif(9)),
        in_jpeg(exif(65535)),
        in_jpeg(exif(6)[:16]),
        in_jpeg(b"II*\0\xff\xff\xff\xff\x01\x02"),
        in_jpeg(b""),
        png(IMAGE, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + b"x\x9c")),
        png(IMAGE, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png(IMAGE, after=chunk(b"eXIf", exif(6))),
        png(IMAGE, before=chunk(b"eXIf", exif(6), checksum=0)),
        png(IMAGE, before=chunk(b"eXIf", b"Exif\0\0" + exif(6))),
        encoded(IMAGE, "WEBP", exif=with_orientation(6), lossless=True),
        encoded(IMAGE, "WEBP", xmp=XMP, lossless=True),
    ],
    ids=[
        "XMP in JPEG", "broken before another", "LONG", "0", "9", "65535", "cut off", "far away", "empty",
        "raw profile in PNG", "XMP in PNG", "eXIf behind the pixels", "eXIf with a wrong checksum",
        "eXIf with a prefix", "EXIF in WebP", "XMP in WebP",
    ],
)  # fmt: skip
def test_what_browsers_ignore_is_ignored(data):
    found = decoded(data)

    assert found.orientation == 1
    assert found.size == IMAGE.shape[:2]
    assert np.abs(np.asarray(found.pixels).astype(int) - IMAGE).max() <= 4
