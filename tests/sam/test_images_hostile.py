"""Any bytes give an image or one of four errors, which come early enough to cost little. No text is printed."""

import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sam.sample_values import decode_array, encoded, files_of_every_kind, gradient, tiff

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImage, UnusableAspectRatio
from service.process import configure_image_libraries
from service.sam.image_guards import ImageLimits, check_shape
from service.sam.images import decode_image

REFUSALS = (UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio)
MAX_PIXELS = 100_000


SEEDS = files_of_every_kind()


def png(width, height, data=b""):
    """Return a PNG whose header has this size; `data` is its compressed pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def webp_canvas(width, height):
    """Return an animated WebP whose header has this canvas size."""
    canvas = struct.pack("<I", 2) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + b"\0" * 6
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def refusal_of(data):
    """Return the refusal, or None for an image. Any other exception makes the test fail."""
    try:
        image = decode_array(data, max_pixels=MAX_PIXELS)
    except REFUSALS as error:
        return error
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
    return None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:12] for data in SEEDS)]))
def test_random_bytes_are_refused(rest, start):
    assert refusal_of(start + rest) is not None


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_a_file_that_is_cut_off_anywhere_is_an_image_or_a_refusal(index):
    data = SEEDS[index]

    for length in range(0, len(data) - 1, max(1, len(data) // 150)):
        refusal_of(data[:length])

    assert isinstance(refusal_of(data[: len(data) // 3]), UndecodableImage)


def test_damaged_files_are_images_or_refusals_and_print_nothing(capfd, caplog):
    rng = np.random.default_rng(0)
    many_samples = tiff((24, 30), 8, b"\0" * 720, extra=((277, 6_403),))

    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        configure_image_libraries()  # adds its filter first
        refusal_of(many_samples)
        for number in range(1600):
            data = bytearray(SEEDS[number % len(SEEDS)])
            for _ in range(rng.integers(1, 6)):
                # Most decisions of the decoder depend on the headers.
                data[rng.integers(0, min(len(data), 300) if rng.random() < 0.7 else len(data))] = rng.integers(0, 256)
            if rng.random() < 0.3:
                cut, again = sorted(rng.integers(0, len(data), 2))
                data = data[:again] + data[cut:]
            refusal_of(bytes(data))

    printed = capfd.readouterr()
    assert leaked == []
    assert caplog.records == []
    assert printed.err == ""
    assert printed.out == ""


@pytest.mark.parametrize(
    "data", [b"hello", b"%PDF-1.7", b"<svg/>", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypisom", b"P6 1 1 255 abc", b"\0"]
)
def test_other_formats_are_unsupported_and_the_answer_names_the_supported(data):
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"):
        decode_array(data, max_pixels=MAX_PIXELS)


def test_a_format_of_pillow_outside_the_list_is_unsupported():
    for name in ("PPM", "TGA", "ICO", "JPEG2000", "PCX"):
        with pytest.raises(UnsupportedImage):
            decode_array(encoded(gradient(), name), max_pixels=MAX_PIXELS)


def test_no_bytes_are_undecodable():
    with pytest.raises(UndecodableImage, match="0 bytes"):
        decode_array(b"", max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        png(30_000, 30_000, zlib.compress(b"\0" * 1000)),
        png(2**31 - 1, 2**31 - 1),
        webp_canvas(16_384, 16_384),
        webp_canvas(2**24, 200),
        b"GIF89a"
        + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
        + b"\2\2\x4c\1\0;",
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 50_000, -50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        tiff((60_000, 60_000), 8, b"\0" * 100),
    ],
    ids=["png", "png 2**31", "webp", "webp wide", "gif", "bmp", "tiff"],
)
def test_a_bomb_is_refused_from_its_header_with_numbers(data):
    tracemalloc.start()

    try:
        with pytest.raises(ImageTooLarge, match=f"at most {MAX_PIXELS}") as caught:
            decode_array(data, max_pixels=MAX_PIXELS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert caught.value.extra["limit"] == MAX_PIXELS
    assert peak_bytes < 1_000_000


def test_the_limit_of_the_service_replaces_that_of_pillow():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")

    with pytest.raises(ImageTooLarge, match="200000000 pixels"):
        decode_array(data, max_pixels=199_999_999)


def test_an_image_of_exactly_the_limit_is_taken():
    data = encoded(gradient(10, 20), "PNG")

    assert decode_array(data, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageTooLarge, match="20 x 10 = 200 pixels"):
        decode_array(data, max_pixels=199)


def test_tiles_larger_than_an_image_may_be_are_refused():
    data = tiff((24, 30), 8, b"\0" * 720, extra=((322, 65_536), (323, 65_536)))

    with pytest.raises(ImageTooLarge, match="tiles"):
        decode_array(data, max_pixels=MAX_PIXELS)


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_refused():
    data = encoded(gradient(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]

    assert decode_array(data[:-2] + scan * 50 + data[-2:], max_pixels=MAX_PIXELS).shape == (48, 60, 3)
    with pytest.raises(UndecodableImage, match="scans"):
        decode_array(data[:-2] + scan * 500 + data[-2:], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("size", [(1, 2049), (2050, 1), (2, 5000)])
def test_an_image_that_vanishes_in_the_frame_is_refused(size):
    data = encoded(np.zeros(size, np.uint8), "PNG")

    with pytest.raises(UnusableAspectRatio, match="2048 times"):
        decode_array(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("size", [(1, 2048), (2048, 1), (3, 6000)])
def test_the_narrowest_image_that_does_not_vanish_is_taken(size):
    assert decode_array(encoded(np.zeros(size, np.uint8), "PNG"), max_pixels=MAX_PIXELS).shape == (*size, 3)


@pytest.mark.parametrize(("image_size", "times"), [(512, 1024), (1024, 2048)])
def test_the_narrowest_image_follows_the_input_of_the_encoder(image_size, times):
    limits = ImageLimits(MAX_PIXELS, image_size=image_size)

    check_shape((1, times), limits)
    check_shape((times, 1), limits)

    with pytest.raises(UnusableAspectRatio, match=f"at most {times} times"):
        check_shape((1, times + 1), limits)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1 << 16, 1)], ids=str)
def test_a_stretched_image_may_have_any_aspect_ratio(size):
    data = encoded(np.zeros(size, np.uint8), "PNG")

    assert decode_image(data, max_pixels=1 << 20, resize="stretch").size == size
    with pytest.raises(UnusableAspectRatio, match="2048 times"):
        decode_image(data, max_pixels=1 << 20)


@pytest.mark.parametrize("size", [(1, (1 << 16) + 1), ((1 << 16) + 1, 3)], ids=str)
def test_a_side_of_a_stretched_image_is_bounded(size):
    data = encoded(np.zeros(size, np.uint8), "PNG")

    with pytest.raises(UnusableAspectRatio, match="at most 65536 pixels"):
        decode_image(data, max_pixels=1 << 20, resize="stretch")


@pytest.mark.parametrize(("size", "width"), [((256, 16_384), 16_384), ((300, 16_384), 16_384), ((100, 41_943), 41_943)])
def test_the_width_of_a_stretched_image_is_bounded_by_the_runs_of_its_masks(size, width):
    height, _ = size
    pixels = np.zeros((height, width + 1), np.uint8)

    assert decode_image(encoded(pixels[:, 1:], "PNG"), max_pixels=1 << 24, resize="stretch").size == size
    assert decode_image(encoded(pixels.T, "PNG"), max_pixels=1 << 24, resize="stretch").size == (width + 1, height)
    with pytest.raises(UnusableAspectRatio, match=f"the width may be at most {width} pixels"):
        decode_image(encoded(pixels, "PNG"), max_pixels=1 << 24, resize="stretch")


def test_an_image_without_pixels_is_undecodable():
    with pytest.raises(UndecodableImage):
        decode_array(png(0, 5), max_pixels=MAX_PIXELS)
