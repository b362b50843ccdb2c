"""Counting the scans of a JPEG: neither metadata nor bytes after the image count as scans."""

import numpy as np
import pytest
from PIL import Image
from sam.jpeg_files import segment, with_segments
from sam.sample_values import decode_array, encoded, gradient

from service.errors import UndecodableImage

MAX_PIXELS = 100_000
SCANS_IN_DISGUISE = b"\xff\xda" * 5000


def scans_added(data, count):
    """Return a progressive JPEG file with its last scan repeated."""
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def test_a_video_behind_the_image_holds_no_scans():
    trailer = np.random.default_rng(0).bytes(8 << 20)
    assert trailer.count(b"\xff\xda") > 100
    data = encoded(gradient(), "JPEG", progressive=True)

    image = decode_array(data + trailer, max_pixels=MAX_PIXELS)

    assert np.array_equal(image, decode_array(data, max_pixels=MAX_PIXELS))


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xED, 0xEF, 0xFE])
def test_metadata_holds_no_scans(marker):
    data = with_segments(encoded(gradient(), "JPEG"), segment(marker, b"x" * 20 + SCANS_IN_DISGUISE))

    assert decode_array(data, max_pixels=MAX_PIXELS).shape == (48, 60, 3)


def test_an_end_marker_in_the_metadata_does_not_end_the_image():
    data = encoded(gradient(), "JPEG", progressive=True)
    disguised = with_segments(scans_added(data, 200), segment(0xE1, b"x\xff\xd9\xff\xd9"))

    with pytest.raises(UndecodableImage, match="scans"):
        decode_array(disguised, max_pixels=MAX_PIXELS)


def test_an_end_marker_inside_a_scan_ends_the_image():
    data = encoded(gradient(), "JPEG", progressive=True)
    first_scan = data.index(b"\xff\xda")
    cut = data[: first_scan + 40] + b"\xff\xd9" + scans_added(data, 500)[first_scan + 40 :]

    assert decode_array(cut, max_pixels=MAX_PIXELS).shape == (48, 60, 3)


@pytest.mark.parametrize("between", [b"", b"\xff\xff\xff", b"\0\0", b"\xff\0", b"\xff\xd0", b"\xff\x01"])
def test_a_scan_is_found_behind_padding_and_restart_markers(between):
    data = encoded(gradient(), "JPEG", progressive=True)
    scan = between + data[data.rindex(b"\xff\xda") : -2]

    with pytest.raises(UndecodableImage, match="scans"):
        decode_array(data[:-2] + scan * 200 + data[-2:], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_a_scan_is_found_at_the_edge_of_a_search_block(shift):
    data = encoded(gradient(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    coded = len(scan) - 2 - int.from_bytes(scan[2:4], "big")
    scan += bytes((1 << 20) - coded + shift)

    with pytest.raises(UndecodableImage, match="has 21 scans, at most 20"):
        decode_array(data[:-2] + scan * 11 + b"\xff\xd9", max_pixels=48 * 60)


def test_restart_markers_and_stuffed_bytes_are_no_scans():
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    data = encoded(noise, "JPEG", quality=100, restart_marker_blocks=1)
    assert data.count(b"\xff\xd0") >= 5
    assert data.count(b"\xff\0") > 10

    assert decode_array(data, max_pixels=MAX_PIXELS).shape == (120, 160, 3)


def test_large_images_may_have_fewer_scans():
    data = scans_added(encoded(Image.new("L", (300, 300), 128), "JPEG", progressive=True), 30)

    assert decode_array(data, max_pixels=300_000).shape == (300, 300, 3)
    with pytest.raises(UndecodableImage, match="at most 20 are decoded at its 90000 pixels"):
        decode_array(data, max_pixels=90_000)


def test_an_ordinary_progressive_image_of_the_pixel_limit_is_accepted():
    data = encoded(gradient(300, 300), "JPEG", progressive=True, quality=95)

    assert decode_array(data, max_pixels=90_000).shape == (300, 300, 3)


@pytest.mark.parametrize(
    ("filling", "message"),
    [
        (segment(0xFE, b"") * 10_000, "segments"),
        (b"\xff" * 100_000, "padding"),
        (b"\xff\xd8" * 50_000, "padding"),
        (b"\xff\xd0" * 50_000, "padding"),
        (segment(0xFE, b"") + b"\0" * 100_000, "padding"),
    ],
    ids=["empty comments", "fill bytes", "starts", "restarts", "zeros"],
)
def test_too_many_segments_or_bytes_of_padding_are_refused(filling, message):
    with pytest.raises(UndecodableImage, match=message):
        decode_array(with_segments(encoded(gradient(), "JPEG"), filling), max_pixels=MAX_PIXELS)


def test_metadata_of_megabytes_is_taken():
    data = with_segments(encoded(gradient(), "JPEG"), *[segment(0xE2, bytes(65_533))] * 100)

    assert decode_array(data, max_pixels=MAX_PIXELS).shape == (48, 60, 3)
