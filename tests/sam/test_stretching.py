"""Stretched images, their coordinates and their enlarged logits equal those of the official code and of torch.

Tolerances: section "Images in, masks out" of docs/explanation/sam2.md.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image
from sam.reference import upsampled
from sam.sample_values import gradient, sizes
from support.sam_family_reference import family_image
from support.whole_masks import full

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from service.native.masks import native_masks
from service.sam.frame import Frame
from service.sam.masks import binary_mask
from service.sam.transforms import points_from_frame, points_to_frame, preprocess

torch = pytest.importorskip("torch")
from support.official_reference import BOTH  # noqa: E402 - they need torch
from support.sam2_reference import open_sam2  # noqa: E402
from support.sam2_weights import SAM2_FULL  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
NATIVE = native_masks()
UPSCALED = ("37x1500", "2448x600", "100x80", "255x257", "1024x1024", "1x5")


def stretched(image):
    return preprocess(image, PIXEL_MEAN, PIXEL_STD, resize="stretch")


def stretched_by_torch(image):
    """Return the input as the official code computes it: divided by 255, resized in float, normalised."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    resized = torch.nn.functional.interpolate(
        pixels[None], (1024, 1024), mode="bilinear", align_corners=False, antialias=True
    )[0]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) / 255 for values in (PIXEL_MEAN, PIXEL_STD))
    return ((resized - mean) / std).numpy()


def patterned(height, width):
    """Return the image of the reference's resized arrays: slopes and edges, (H, W, 3) uint8."""
    rows, columns = np.indices((height, width))
    channels = np.arange(3)
    slopes = (columns[..., None] * (3 + channels) + rows[..., None] * (5 - channels)) // 4
    steps = 64 * ((columns[..., None] // 37 + rows[..., None] // 23 + channels) % 3)
    return ((slopes + steps) % 256).astype(np.uint8)


def assert_stats(values, expected, atol):
    """Compare with mean, deviation, mean size, least and largest value."""
    values = values.astype(np.float64)
    found = [values.mean(), values.std(), np.abs(values).mean(), values.min(), values.max()]
    assert_allclose(found, expected / [1, 1, values.size, 1, 1], rtol=0, atol=atol)


@pytest.mark.parametrize("part", BOTH)
def test_the_input_of_the_reference_image_is_the_official_one(part):
    reference = open_sam2("edgetam", part).arrays

    found = stretched(family_image())

    assert_allclose(found[:, ::16, ::16], reference["input_slice"], rtol=0, atol=3e-6)
    assert_allclose(found[:, 512], reference["input_row512"], rtol=0, atol=3e-6)
    assert_stats(found, reference["input_stats"], 3e-6)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", ["edgetam", "sam2.1-tiny"])
@pytest.mark.parametrize("size", [(1333, 2100), (37, 1500), (2448, 600), (1024, 1024)], ids=str)
def test_images_of_other_sizes_are_resized_as_the_official_code_does(name, size):
    reference, key = open_sam2(name, "full").arrays, "resize/{}x{}".format(*size)

    found = stretched(patterned(*size))

    assert_allclose(found[:, ::64, ::64], reference[f"{key}_slice"], rtol=0, atol=3e-6)
    assert_allclose(found[:, -8:, -8:], reference[f"{key}_corner"], rtol=0, atol=3e-6)
    assert_stats(found, reference[f"{key}_stats"], 3e-6)


@settings(max_examples=40, deadline=None)
@given(sizes(2500), st.integers(0, 2**32 - 1))
@example((1, 5000), 0)
@example((5000, 1), 0)
@example((1024, 1024), 0)
@example((100, 60_000), 0)
def test_an_image_of_any_size_is_resized_as_torch_does(size, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)

    found = stretched(image)

    assert (found.shape, found.dtype) == ((3, 1024, 1024), np.float32)
    assert found.flags.c_contiguous
    # torch adds in float32, over up to 118 pixels an axis.
    assert np.abs(found - stretched_by_torch(image)).max() < 1e-5


def test_an_image_of_the_size_of_the_input_is_only_normalised():
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)

    found = stretched(image)

    expected = (image.astype(np.float32) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    assert np.array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(3000, 4000), (2500, 7000), (60_000, 100), (1, 1 << 16)], ids=str)
def test_the_bands_of_a_large_image_join_without_a_seam(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))

    found = stretched(image)

    for channel, plane in enumerate(image.split()):
        columns = plane.convert("F").resize((1024, image.height), Image.Resampling.BILINEAR)
        whole = np.asarray(columns.resize((1024, 1024), Image.Resampling.BILINEAR))
        expected = (whole - np.float32(PIXEL_MEAN[channel])) / np.float32(PIXEL_STD[channel])
        assert np.array_equal(found[channel], expected)


# `ru_maxrss` of a new process begins with the size of its parent. VmHWM does not.
_PEAK = """
from pathlib import Path
from PIL import Image
from service.sam.transforms import preprocess
def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
preprocess(Image.new("RGB", (64, 64)), (0.0,) * 3, (1.0,) * 3, resize="stretch")
image = Image.new("RGB", {size}, (1, 2, 3))
before = memory("VmRSS")
preprocess(image, (0.0,) * 3, (1.0,) * 3, resize="stretch")
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("size", [(8832, 5888), (1 << 16, 793), (793, 1 << 16)], ids=str)
def test_an_image_of_52_megapixels_takes_little_memory(size):
    found = subprocess.run(
        [sys.executable, "-c", _PEAK.format(size=size)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert int(found.stdout) < 64 << 10  # KiB; the result takes 12 MiB, and all pixels in float 624


def test_a_jpeg_at_reduced_scale_fills_the_input_as_well():
    image = Image.fromarray(gradient(1500, 2200))

    whole, reduced = stretched(image), stretched(image.reduce(2))

    assert np.abs(whole - reduced).max() < 0.05


@pytest.mark.fixtures
@pytest.mark.parametrize("size", [(600, 900), (37, 1500)], ids=str)
def test_coordinates_are_the_official_ones(size):
    with np.load(SAM2_FULL / "upscaling.npz") as arrays:
        points, expected = (arrays["coords_{}x{}_{}".format(*size, end)] for end in ("in", "out"))

    assert np.array_equal(points_to_frame(points, Frame(size, "stretch")), expected)


@settings(deadline=None)
@given(sizes(60_000), st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)), min_size=1, max_size=5))
def test_coordinates_are_divided_before_they_are_multiplied_in_float32(size, shares):
    frame = Frame(size, "stretch")
    points = np.array(shares) * size[::-1]

    found = points_to_frame(points, frame)

    sides = torch.tensor(size[::-1], dtype=torch.float32)
    assert torch.equal(torch.from_numpy(found), torch.from_numpy(points).float() / sides * 1024)
    assert np.abs(points_from_frame(found, frame) - points).max() < 1e-5 * max(size)


@pytest.mark.fixtures
@pytest.mark.parametrize("mask_of", [binary_mask, *([NATIVE.binary_mask] if NATIVE else [])])
@pytest.mark.parametrize("size", UPSCALED)
def test_logits_are_enlarged_as_the_official_code_does(size, mask_of):
    height, width = map(int, size.split("x"))
    frame = Frame((height, width), "stretch")
    values = open_sam2("sam2.1-tiny", "full").arrays["predict/feedback_low_res_f32"][0]
    with np.load(SAM2_FULL / "upscaling.npz") as arrays:
        bits, part, expected = (arrays[f"{size}_{kind}"] for kind in ("bits", "slice", "stats"))

    pixels = full(mask_of(values, frame))

    exact = upsampled(values, frame)
    official = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
    is_clear = np.abs(exact) >= 2e-4
    assert np.array_equal(pixels[is_clear], official[is_clear])
    assert np.count_nonzero(pixels != official) <= 3
    assert_allclose(exact[:: max(1, height // 16), :: max(1, width // 16)], part, rtol=0, atol=2e-4)
    assert_stats(exact, expected, 2e-4)


@settings(max_examples=40, deadline=None)
@given(sizes(3000), st.integers(0, 2**32 - 1))
@example((1, 5), 0)
@example((255, 257), 0)
@example((1, 5000), 0)
def test_the_reference_path_of_a_stretched_image_is_one_step_of_torch(size, seed):
    values = np.random.default_rng(seed).normal(scale=5, size=(256, 256)).astype(np.float32)

    expected = upsampled(values, Frame(size, "stretch"))

    found = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False
    )
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-4 * np.abs(values).max()
