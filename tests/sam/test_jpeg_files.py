"""JPEG: files without an end marker, and decoding at reduced scale."""

import io

import numpy as np
import pytest
from PIL import Image
from sam.jpeg_files import segment, with_segments
from sam.png_files import exif
from sam.sample_values import decode_array, encoded, gradient

from service.errors import ImageTooLarge, UndecodableImage
from service.sam.images import decode_image

MAX_PIXELS = 60_000_000
NOISE = np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(np.uint8)
KINDS = [
    {"quality": 90},
    {"quality": 90, "progressive": True},
    {"quality": 60, "restart_marker_blocks": 2},
    {"quality": 90, "subsampling": 0, "optimize": True},
]


def decoded(data):
    return decode_array(data, max_pixels=MAX_PIXELS)


def scans_of(data):
    """Return the positions of the scans of a file without metadata."""
    at = [data.index(b"\xff\xda")]
    while (found := data.find(b"\xff\xda", at[-1] + 2)) > 0:
        at.append(found)
    return at


@pytest.mark.parametrize("image", [NOISE, gradient(90, 130), NOISE[..., 0]], ids=["noise", "smooth", "grey"])
@pytest.mark.parametrize("options", KINDS, ids=["baseline", "progressive", "restarts", "optimised"])
@pytest.mark.parametrize("tail", [b"", b"\xff", b"\0\0\0"], ids=["end", "half a marker", "padding"])
def test_an_image_without_its_end_marker_is_complete(image, options, tail):
    data = encoded(image, "JPEG", **options)
    assert data.endswith(b"\xff\xd9")

    assert np.array_equal(decoded(data[:-2] + tail), decoded(data))


@pytest.mark.parametrize("options", KINDS, ids=["baseline", "progressive", "restarts", "optimised"])
@pytest.mark.parametrize("cut", [4, 10, 50, 400, 1000])
def test_an_image_that_is_cut_off_is_refused(options, cut):
    data = encoded(NOISE, "JPEG", **options)

    with pytest.raises(UndecodableImage, match="cut off"):
        decoded(data[:-cut])


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 60, "restart_marker_blocks": 2},
        {"quality": 85, "restart_marker_rows": 1},
        {"quality": 60},
        {"quality": 75, "progressive": True, "restart_marker_blocks": 8},
    ],
    ids=["restarts", "restarts of rows", "baseline", "progressive restarts"],
)
def test_an_image_that_is_cut_off_at_a_marker_or_a_stuffed_byte_is_refused(options):
    data = encoded(NOISE, "JPEG", **options)
    ends = [at + 1 for at in range(data.index(b"\xff\xda") + 20, len(data) - 2) if data[at] == 0xFF]

    for end in (each + offset for each in ends for offset in (-1, 0, 1)):
        if end < len(data) - 2:
            with pytest.raises(UndecodableImage, match="cut off"):
                decoded(data[:end])


def test_missing_scans_are_noticed_where_the_file_is_cut_between_two():
    data = encoded(NOISE, "JPEG", progressive=True)

    for at in scans_of(data)[1:]:
        with pytest.raises(UndecodableImage, match="cut off"):
            decoded(data[:at])


def test_an_image_without_an_end_keeps_its_orientation():
    data = with_segments(encoded(NOISE, "JPEG"), segment(0xE1, b"Exif\0\0" + exif(6)))

    found = decode_image(data[:-2], max_pixels=MAX_PIXELS)

    assert found.orientation == 6
    assert found.size == (130, 90)


@pytest.mark.parametrize("fill", [b"", segment(0xFE, bytes(60_000)) * 10], ids=["plain", "metadata"])
def test_a_frame_header_or_tables_that_are_repeated_are_refused(fill):
    data = encoded(gradient(), "JPEG")
    table = segment(0xDB, b"".join(bytes((0, *range(1, 65))) for _ in range(1000)))

    with pytest.raises(UndecodableImage, match="tables"):
        decoded(with_segments(data, fill, table, table))


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((2000, 3000), 1), ((2300, 3891), 1), ((2300, 3892), 2), ((3000, 4000), 2), ((4032, 3024), 2),
        ((4901, 3601), 2), ((6048, 8064), 4), ((6144, 8192), 4), ((300, 15_568), 1), ((2048, 15_568), 8),
        ((2047, 15_568), 4),
    ],
)  # fmt: skip
def test_large_images_are_decoded_at_reduced_scale(size, scale):
    data = encoded(Image.new("L", size[::-1], 90), "JPEG")

    found = decode_image(data, max_pixels=MAX_PIXELS)

    assert found.size == size
    assert found.pixels.size == (-(-size[1] // scale), -(-size[0] // scale))


@pytest.mark.parametrize("size", [(3000, 4000), (6144, 8192)])
def test_a_stretched_image_is_decoded_in_full(size):
    data = encoded(Image.new("L", size[::-1], 90), "JPEG")

    found = decode_image(data, max_pixels=MAX_PIXELS, resize="stretch")

    assert found.size == size
    assert found.pixels.size == size[::-1]


def test_the_reduced_image_is_the_image():
    y, x = np.mgrid[:2400, :3901]
    image = np.stack((y * 200 // 2400, x * 250 // 3901, (x // 300 + y // 300) % 2 * 200), 2).astype(np.uint8)
    data = with_segments(encoded(image, "JPEG", quality=95), segment(0xE1, b"Exif\0\0" + exif(5)))
    with Image.open(io.BytesIO(data)) as full:
        expected = np.asarray(full.convert("RGB").resize((1024, 630), Image.Resampling.BOX)).transpose(1, 0, 2)

    found = decode_image(data, max_pixels=MAX_PIXELS)

    assert found.size == (3901, 2400)
    resized = np.asarray(found.pixels.resize((630, 1024), Image.Resampling.BOX)).astype(int)
    assert np.abs(resized - expected).mean() < 2


def test_the_limit_counts_pixels_at_full_scale():
    data = encoded(Image.new("L", (4000, 3000)), "JPEG")

    with pytest.raises(ImageTooLarge, match="4000 x 3000"):
        decode_image(data, max_pixels=11_999_999)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_all_colour_models_are_reduced(mode):
    image = Image.new("RGB", (4000, 2400), (200, 90, 40)).convert(mode)

    found = decode_image(encoded(image, "JPEG", quality=95), max_pixels=MAX_PIXELS)

    assert found.pixels.size == (2000, 1200)
    expected = np.asarray(image.convert("RGB"))[0, 0].astype(int)
    assert np.abs(np.asarray(found.pixels).astype(int) - expected).max() <= 6
