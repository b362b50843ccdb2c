"""Files of every supported kind are decoded to the upright RGB image that a viewer shows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sam.sample_values import decode_array, encoded, gradient, tiff

from service.errors import UnsupportedImage
from service.sam.images import decode_image
from service.sam.transforms import preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def decoded(data):
    return decode_array(data, max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 100}, 20),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
    ],
)
def test_each_format_gives_the_image(file_format, options, tolerance):
    image = gradient()

    found = decoded(encoded(image, file_format, **options))

    assert found.dtype == np.uint8
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).max() <= tolerance


def test_a_gif_gives_its_first_frame():
    first, second = (Image.new("P", (6, 4), index) for index in (0, 1))
    first.putpalette([10, 20, 30, 200, 100, 0])
    second.putpalette([10, 20, 30, 200, 100, 0])

    found = decoded(encoded(first, "GIF", save_all=True, append_images=[second]))

    assert (found == (10, 20, 30)).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_decoded(file_format):
    first, second = Image.new("RGB", (6, 4), (200, 100, 50)), Image.new("RGB", (6, 4), (0, 0, 255))

    found = decoded(encoded(first, file_format, save_all=True, append_images=[second]))

    assert np.abs(found.astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(file_format):
    grey = gradient()[..., 1]

    found = decoded(encoded(grey, file_format))

    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0].astype(int) - grey).max() <= (6 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_becomes_black_and_white(file_format):
    bits = gradient()[..., 1] > 100

    found = decoded(encoded(Image.fromarray(bits), file_format))

    assert np.array_equal(found, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_palette_becomes_its_colours(file_format):
    indexed = Image.fromarray(gradient()).quantize(16)

    found = decoded(encoded(indexed, file_format))

    assert np.array_equal(found, np.asarray(indexed.convert("RGB")))


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_parts_show_white(file_format, options):
    colour = gradient()
    alpha = np.linspace(0, 255, 48 * 60).reshape(48, 60).astype(np.uint8)

    found = decoded(encoded(np.dstack((colour, alpha)), file_format, **options))

    share = alpha[..., None] / 255.0
    assert np.abs(found - (colour * share + 255 * (1 - share))).max() <= 1.0
    assert (found[0, 0] == 255).all()


def test_transparent_grey_shows_white():
    grey = np.dstack(
        (np.full((4, 6), 40, np.uint8), np.repeat([[0, 255]], 4, axis=0).repeat(3, axis=1).astype(np.uint8))
    )

    found = decoded(encoded(grey, "PNG"))

    assert (found[:, :3] == 255).all()
    assert (found[:, 3:] == 40).all()


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_the_transparent_index_of_a_palette_shows_white(file_format):
    indexed = Image.new("P", (6, 4), 1)
    indexed.putpalette([10, 20, 30, 200, 100, 0])
    indexed.paste(0, (0, 0, 3, 4))

    found = decoded(encoded(indexed, file_format, transparency=0))

    assert (found[:, :3] == 255).all()
    assert (found[:, 3:] == (200, 100, 0)).all()


@pytest.mark.parametrize(("colour", "key"), [((10, 20, 30), (10, 20, 30)), (77, 77)])
def test_the_transparent_colour_of_a_png_shows_white(colour, key):
    image = Image.new("RGB" if isinstance(colour, tuple) else "L", (6, 4), colour)
    image.putpixel((5, 3), 0)

    found = decoded(encoded(image, "PNG", transparency=key))

    assert (found[0] == 255).all()
    assert (found[3, 5] == 0).all()


def test_cmyk_becomes_rgb():
    image = gradient()

    found = decoded(encoded(Image.fromarray(image).convert("CMYK"), "JPEG", quality=100, subsampling=0))

    assert np.abs(found.astype(int) - image).max() <= 4


def test_ycck_becomes_rgb():
    # A CMYK file whose Adobe marker declares the first three planes as YCbCr. Pillow stores CMYK inverted.
    image = gradient()
    luma = np.asarray(Image.fromarray(255 - image).convert("YCbCr"))
    planes = np.dstack((255 - luma, np.zeros(luma.shape[:2], np.uint8)))
    stored = Image.frombytes("CMYK", (60, 48), planes.tobytes())
    data = bytearray(encoded(stored, "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2

    found = decoded(bytes(data))

    assert np.abs(found.astype(int) - image).max() <= 5


def test_grey_of_16_bits_is_scaled_with_rounding():
    levels = (np.arange(48 * 60).reshape(48, 60) * 22).astype(np.uint16)
    expected = np.round(levels / 257)

    from_png = decoded(encoded(levels, "PNG"))
    from_tiff = decoded(tiff(levels.shape, 16, levels.tobytes()))
    from_big_endian = decoded(encoded(Image.frombytes("I;16B", (60, 48), levels.astype(">u2").tobytes()), "TIFF"))
    from_negative = decoded(tiff(levels.shape, 16, levels.tobytes(), photometric=0))

    for found in (from_png, from_tiff, from_big_endian, 255 - from_negative):
        assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_grey_of_12_bits_is_white_at_4095():
    levels = np.arange(48 * 60).reshape(48, 60) + 1000
    low, high = levels.reshape(-1)[0::2], levels.reshape(-1)[1::2]
    packed = np.stack((low >> 4, (low & 15) << 4 | high >> 8, high & 255), 1).astype(np.uint8)

    found = decoded(tiff(levels.shape, 12, packed.tobytes()))

    assert np.array_equal(found[..., 0], np.round(levels / 4095 * 255))


def test_colour_of_16_bits_keeps_its_high_byte():
    image = gradient()

    found = decoded(tiff(image.shape[:2], 16, (image.astype(np.uint16) * 257).tobytes(), photometric=2, samples=3))

    assert np.array_equal(found, image)


@pytest.mark.parametrize(
    ("bits", "dtype", "sample_format"), [(16, np.int16, 2), (32, np.uint32, 1), (32, np.int32, 2), (32, np.float32, 3)]
)
def test_samples_without_a_white_are_refused(bits, dtype, sample_format):
    data = tiff((48, 60), bits, np.zeros((48, 60), dtype).tobytes(), sample_format=sample_format)

    with pytest.raises(UnsupportedImage, match="8 or 16 bits"):
        decoded(data)


def test_lab_colours_are_refused():
    data = tiff((48, 60), 8, gradient().tobytes(), photometric=8, samples=3)

    with pytest.raises(UnsupportedImage, match="RGB"):
        decoded(data)


def test_a_colour_profile_is_ignored():
    image = gradient()

    found = decoded(encoded(image, "PNG", icc_profile=b"not a profile"))

    assert np.array_equal(found, image)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_preprocessing_a_pillow_image_equals_preprocessing_its_array(file_format):
    data = encoded(gradient(), file_format)

    image = decode_image(data, max_pixels=1_000_000).pixels

    assert np.array_equal(preprocess(image, MEAN, STD), preprocess(decoded(data), MEAN, STD))


def test_threads_decode_independently():
    image = gradient()
    files = [encoded(image, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")] * 8
    expected = [decoded(data) for data in files]

    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(decoded, files))

    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
