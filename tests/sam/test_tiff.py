"""TIFF files of every layout give the pixels that their tags describe, or are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from sam.sample_values import encoded, gradient
from sam.tiff_files import deflate, directory, lzw, one, tiff_file

from service.errors import InvalidRequest, UnsupportedImage
from service.sam.decoded_image import ReadOptions
from service.sam.images import decode_image

CASES = Path(__file__).parent / "cases"
DEFLATE, LZW = (deflate, 8), (lzw, 5)


def read(data, levels="auto", bands=None):
    return decode_image(data, max_pixels=1_000_000, options=ReadOptions(levels, bands))


def pixels(data, levels="auto", bands=None):
    return np.asarray(read(data, levels, bands).pixels)


def full_resolution_scene():
    return tifffile.imread(CASES / "thumbnail_first.tif", key=1)


@pytest.mark.parametrize("name", ["planar16", "nir_as_alpha", "thumbnail_first"])
def test_files_that_pillow_guesses_wrong_give_the_scene(name):
    found = read((CASES / f"{name}.tif").read_bytes())

    assert np.array_equal(np.asarray(found.pixels), full_resolution_scene())
    assert (found.size, found.orientation, found.levels) == ((8, 16), 1, "full")


def test_grey_of_12_bits_in_16_is_stretched():
    stored = tifffile.imread(CASES / "uint16_12bit.tif").astype(float)

    found = read((CASES / "uint16_12bit.tif").read_bytes())

    assert found.levels == "minmax"
    expected = np.rint((stored - stored.min()) / (stored.max() - stored.min()) * 255)
    assert np.array_equal(np.asarray(found.pixels), np.repeat(expected[..., None], 3, axis=2))


def test_eight_bands_are_read_when_levels_or_bands_are_given():
    data = (CASES / "bands8.tif").read_bytes()
    stored = tifffile.imread(CASES / "bands8.tif")

    assert np.array_equal(pixels(data, "full"), stored[..., :3])
    assert np.array_equal(pixels(data, bands=(8, 1, 4)), stored[..., [7, 0, 3]])
    with pytest.raises(UnsupportedImage, match=r"8 bands of 8-bit samples \(sample format: unsigned\).*levels="):
        read(data)
    with pytest.raises(InvalidRequest, match="has 8"):
        read(data, bands=(1, 2, 9))


LAYOUTS = [
    {},
    {"rows": 7},
    {"tile": 16},
    {"planar": 2},
    {"planar": 2, "rows": 5},
    {"planar": 2, "tile": 16},
    {"compress": DEFLATE},
    {"compress": DEFLATE, "predictor": 2},
    {"compress": DEFLATE, "predictor": 2, "rows": 7},
    {"compress": DEFLATE, "predictor": 2, "tile": 16},
    {"compress": DEFLATE, "predictor": 2, "tile": 32, "planar": 2},
    {"compress": LZW, "rows": 9},
    {"compress": LZW, "predictor": 2, "tile": 16},
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_of_every_layout_are_read(dtype, layout, big, order):
    image = gradient(40, 52)
    stored = image.astype(dtype) * (257 if dtype == np.uint16 else 1)

    found = pixels(one(stored, order=order, big=big, **layout))

    assert np.array_equal(found, image)


@pytest.mark.parametrize(
    "layout", [*LAYOUTS, {"compress": DEFLATE, "predictor": 3}, {"compress": DEFLATE, "predictor": 3, "tile": 16}]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_of_every_layout_are_read_with_levels(dtype, layout):
    image = gradient(40, 52)
    stored = image.astype(dtype) / 255

    for order in "<>":
        assert np.array_equal(pixels(one(stored, order=order, **layout), "full"), image)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.float16])
@pytest.mark.parametrize("levels", ["minmax", "percentile"])
def test_other_samples_are_refused_by_name_and_read_with_levels(dtype, levels):
    image = gradient(40, 52)
    data = one((image.astype(np.int16) - 100).clip(-100 if np.dtype(dtype).kind != "u" else 0).astype(dtype), t262=2)

    found = read(data, levels)

    bits, kind = np.dtype(dtype).itemsize * 8, {"i": "signed", "u": "unsigned", "f": "float"}[np.dtype(dtype).kind]
    with pytest.raises(
        UnsupportedImage, match=rf"3 bands of {bits}-bit samples \(sample format: {kind}\).*levels=minmax"
    ):
        read(data)
    assert found.levels == levels
    assert np.asarray(found.pixels).min() == 0
    assert np.asarray(found.pixels).max() == 255


def test_signed_samples_are_full_from_the_smallest_to_the_largest_number():
    stored = np.array([[-32768, 0, 32767]], np.int16)[..., None].repeat(4, axis=0)

    assert pixels(one(stored), "full")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("levels", ["full", "minmax", "percentile"])
def test_nan_is_black_and_infinite_samples_are_black_or_white(levels):
    stored = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20, 1)
    stored[3, :3, 0] = np.nan, np.inf, -np.inf

    found = pixels(one(stored), levels)[..., 0]

    assert found[3, :3].tolist() == [0, 255, 0]
    assert found[0, 0] == 0
    assert found[-1, -1] == 255
    assert 120 <= found[10, 0] <= 135


def test_an_orientation_is_applied_once_and_answered():
    upright = gradient(16, 24)

    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        found = read(one(np.ascontiguousarray(np.rot90(upright, 1)).astype(dtype) * dtype(factor), t274=6))

        assert np.array_equal(np.asarray(found.pixels), upright)
        assert (found.orientation, found.size) == (6, (16, 24))


def soft_mask():
    alpha = np.zeros((48, 60), np.uint8)
    alpha[8:, 10:] = 255
    alpha[4:8] = 100
    return alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [1, 2])
def test_an_opacity_band_lays_the_image_on_white(dtype, planar):
    colour, alpha = gradient(), soft_mask()
    factor = dtype(257 if dtype == np.uint16 else 1)

    found = pixels(one(np.dstack((colour, alpha)).astype(dtype) * factor, t262=2, t338=2, planar=planar))

    share = alpha[..., None] / 255.0
    assert np.abs(found - (colour * share + 255 * (1 - share))).max() <= 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_opacity_lays_the_image_on_white(dtype):
    colour, alpha = gradient(), soft_mask()
    factor = dtype(257 if dtype == np.uint16 else 1)
    stored = np.dstack((np.rint(colour * (alpha[..., None] / 255.0)), alpha)).astype(dtype) * factor

    found = pixels(one(stored, t262=2, t338=1))

    share = alpha[..., None] / 255.0
    assert np.abs(found - (colour * share + 255 * (1 - share))).max() <= 1.0


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_band_that_is_no_opacity_is_left_out(dtype, kind):
    colour = gradient()
    infrared = 255 - colour[..., 0] // 2
    infrared[:20] = 0  # no data there
    factor = dtype(257 if dtype == np.uint16 else 1)

    found = pixels(one(np.dstack((colour, infrared)).astype(dtype) * factor, t262=2, t338=kind))

    assert np.array_equal(found, colour)


def test_grey_where_0_is_white_is_inverted():
    image = gradient()[..., :1]

    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        found = pixels(one(image.astype(dtype) * dtype(factor), t262=0))

        assert np.array_equal(found[..., 0], 255 - image[..., 0])


def test_levels_and_bands_also_hold_for_8_bits():
    image = gradient() // 2 + 50
    data = encoded(image, "PNG")

    minmax, swapped = read(data, "minmax"), read(data, "full", (3, 2, 1))

    assert (np.asarray(minmax.pixels).min(), np.asarray(minmax.pixels).max(), minmax.levels) == (0, 255, "minmax")
    assert np.array_equal(np.asarray(swapped.pixels), image[..., ::-1])
    assert read(data, "percentile").levels == "percentile"
    with pytest.raises(InvalidRequest, match="has 3"):
        read(data, bands=(4, 3, 2))


@pytest.mark.parametrize(("largest", "levels"), [(16383, "minmax"), (16384, "full"), (65535, "full"), (1023, "minmax")])
def test_16_bits_are_stretched_below_a_quarter_of_white(largest, levels):
    stored = np.linspace(0, largest, 48 * 60).astype(np.uint16).reshape(48, 60, 1)

    found = read(one(stored))

    assert found.levels == levels
    assert np.asarray(found.pixels).max() == (255 if levels == "minmax" else round(largest / 257))
    assert read(one(stored), "full").levels == "full"


def test_dark_8_bit_data_stay_as_they_are():
    image = gradient() // 8

    assert np.array_equal(pixels(one(image)), image)
    assert np.array_equal(pixels(encoded(image, "PNG")), image)


def test_a_constant_image_becomes_black_when_it_is_stretched():
    assert pixels(one(np.full((20, 30, 1), 700, np.uint16))).max() == 0


def sub_image(size, **tags):
    return directory(np.full((*size, 3), 50, np.uint8), **tags)


def test_a_larger_image_in_the_sub_directories_goes_before_the_thumbnail():
    image = gradient()

    flagged = tiff_file(sub_image((12, 16), t254=1), subs=[sub_image((6, 8), t254=1), directory(image)])
    unflagged = tiff_file(sub_image((12, 16)), subs=[directory(image, t254=0)])
    old = tiff_file(sub_image((12, 16), t255=2), directory(image))

    for data in (flagged, unflagged, old):
        assert np.array_equal(pixels(data), image)


def test_pages_and_pyramids_give_their_first_image():
    image = gradient()

    pages = tiff_file(directory(image), sub_image((96, 120)))
    pyramid = tiff_file(directory(image), subs=[sub_image((24, 30), t254=1), sub_image((12, 15), t254=1)])
    single = tiff_file(directory(image, t254=1))

    for data in (pages, pyramid, single):
        assert np.array_equal(pixels(data), image)


def test_unprocessed_data_of_cameras_are_refused_with_the_reason():
    thumbnail = sub_image((12, 16), t254=1)
    sensor = directory(np.zeros((48, 60, 1), np.uint16), t262=32803)

    dng = tiff_file(thumbnail, subs=[sensor])
    nef = tiff_file(thumbnail, subs=[sub_image((24, 30), t254=1), sensor])
    whole = tiff_file(sub_image((48, 60)), subs=[sensor])
    cr2 = bytearray(tiff_file(sub_image((48, 60))))
    cr2[8:10] = b"CR"

    for data in (dng, nef, whole, bytes(cr2)):
        with pytest.raises(UnsupportedImage, match="unprocessed data of a camera"):
            read(data)


@pytest.mark.parametrize(
    ("pixel", "tags", "name"),
    [
        (np.uint16, {"t262": 8}, "CIELab"),
        (np.uint16, {"t262": 6}, "16-bit"),
        (np.uint16, {"t259": 7}, "JPEG"),
        (np.uint8, {"t258": [8, 16, 8]}, "not read"),
        (np.uint16, {"t339": 6}, "not read"),
        (np.uint16, {"t266": 2}, "reversed"),
        (np.uint16, {"t262": 12345}, "12345"),
        (np.uint8, {"planar": 2, "t259": 7}, "JPEG"),
    ],
)
def test_layouts_that_are_not_read_are_refused_by_name(pixel, tags, name):
    with pytest.raises(UnsupportedImage, match=name):
        read(one(np.zeros((20, 30, 3), pixel), **tags))


def test_a_few_bright_pixels_do_not_make_a_stretched_image_dark():
    stored = np.linspace(0, 4095, 48 * 60).astype(np.uint16).reshape(48, 60, 1)
    stored[0, :2] = 16_000

    found = read(one(stored))

    assert found.levels == "percentile"
    assert abs(int(np.asarray(found.pixels)[24, 0, 0]) - 128) < 8


def test_cmyk_of_16_bits_is_read():
    image = gradient()
    stored = np.dstack((255 - image, np.zeros(image.shape[:2], np.uint8))).astype(np.uint16) * 257

    for order in "<>":
        assert np.abs(pixels(one(stored, order=order, t262=5)).astype(int) - image).max() <= 1
