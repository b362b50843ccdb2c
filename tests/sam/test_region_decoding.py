"""Decoding a region gives that part of the whole image, with the levels of the whole image."""

import io

import numpy as np
import pytest
from PIL import Image
from sam.jpeg_files import segment, with_segments
from sam.png_files import exif
from sam.sample_values import encoded
from sam.tiff_files import one
from support.noise_images import as_file, noise_image

from service.errors import InvalidRequest, UnusableAspectRatio
from service.sam.decoded_image import ReadOptions
from service.sam.images import decode_image
from service.sam.region import Region

MAX_PIXELS = 52_000_000
REGION = Region(21, 7, 90, 64)


def decoded(data, region=None, **options):
    return decode_image(data, max_pixels=MAX_PIXELS, options=ReadOptions(region=region, **options))


def dark_samples():
    """Return samples of 16 bits whose brightest lie outside of `REGION`, so that its own levels would differ."""
    samples = np.random.default_rng(5).integers(100, 900, (80, 120), dtype=np.uint16)
    samples[70:, 100:] = 9000
    return samples


FILES = {
    **{
        kind: as_file(noise_image((80, 120), 3), kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG")
    },
    "dark": one(dark_samples()[..., None]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("levels", ["auto", "minmax", "percentile"])
def test_a_region_is_a_part_of_the_whole_image(name, levels):
    whole, part = decoded(FILES[name], levels=levels), decoded(FILES[name], REGION, levels=levels)

    assert (part.size, part.region, part.levels) == (whole.size, REGION, whole.levels)
    assert np.array_equal(np.asarray(part.pixels), np.asarray(whole.pixels)[7:64, 21:90])
    assert part.info.encoded_size == (57, 69)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_region_counts_pixels_of_the_upright_image(orientation):
    data = with_segments(encoded(noise_image((90, 130), 4), "JPEG"), segment(0xE1, b"Exif\0\0" + exif(orientation)))
    region = Region(3, 40, 70, 88)
    whole, part = decoded(data), decoded(data, region)

    assert (part.size, part.orientation) == (whole.size, orientation)
    assert np.array_equal(np.asarray(part.pixels), np.asarray(whole.pixels)[40:88, 3:70])


def test_a_region_of_the_whole_size_is_the_whole_image():
    whole, part = decoded(FILES["JPEG"]), decoded(FILES["JPEG"], Region(0, 0, 120, 80))

    assert part.region is None
    assert np.array_equal(np.asarray(part.pixels), np.asarray(whole.pixels))


@pytest.mark.parametrize(
    ("region", "scale"),
    [(Region(0, 0, 1024, 1024), 1), (Region(7, 5, 3898, 2005), 1), (Region(7, 5, 3899, 2005), 2),
     (Region(100, 100, 8000, 6000), 4)],
)  # fmt: skip
def test_the_scale_of_decoding_follows_the_size_of_the_region(region, scale):
    data = encoded(Image.new("L", (8192, 6144), 90), "JPEG")

    found = decoded(data, region)

    assert found.size == (6144, 8192)
    assert abs(found.pixels.width - (region.x1 - region.x0) / scale) <= 1
    assert abs(found.pixels.height - (region.y1 - region.y0) / scale) <= 1


def test_the_region_at_reduced_scale_is_the_region():
    y, x = np.mgrid[:3000, :5000]
    image = np.stack((y * 200 // 3000, x * 250 // 5000, (x // 300 + y // 300) % 2 * 200), 2).astype(np.uint8)
    region = Region(501, 303, 4901, 2907)
    expected = Image.fromarray(image[303:2907, 501:4901]).resize((1024, 606), Image.Resampling.BOX)

    found = decoded(encoded(image, "JPEG", quality=95), region)

    assert found.pixels.width == 2200
    resized = np.asarray(found.pixels.resize((1024, 606), Image.Resampling.BOX)).astype(int)
    assert np.abs(resized - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize(
    "region", [Region(0, 0, 121, 80), Region(0, 0, 120, 81), Region(999_999_900, 0, 999_999_999, 80)], ids=str
)
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_region_outside_of_the_image_is_refused_with_the_size_of_the_image(region, name):
    with pytest.raises(InvalidRequest, match="120 x 80 pixels") as refused:
        decoded(FILES[name], region)

    assert (refused.value.extra["width"], refused.value.extra["height"]) == (120, 80)
    assert refused.value.extra["errors"][0]["where"] == "/region"


def test_a_region_that_is_too_thin_for_the_frame_is_refused_by_name():
    file = io.BytesIO()
    Image.new("L", (70_000, 40)).save(file, "PNG")

    with pytest.raises(UnusableAspectRatio, match="The region 0,0,70000,32 is too long"):
        decoded(file.getvalue(), Region(0, 0, 70_000, 32))
    assert decoded(file.getvalue(), Region(0, 0, 60_000, 32)).pixels.size == (60_000, 32)
