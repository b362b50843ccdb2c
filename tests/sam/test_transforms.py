"""Transforms of images, points and logits equal those of docs/explanation/model.md, section 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sam.reference import frame_side, upsampled
from sam.sample_values import frames, gradient, logits, sizes

from service.sam.frame import Frame
from service.sam.transforms import (
    FRAME_SIZE,
    TAPS,
    input_size,
    points_from_frame,
    points_to_frame,
    preprocess,
    upsampling,
)

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    ("original_size", "expected"),
    [
        ((600, 900), (683, 1024)),
        ((1333, 751), (1024, 577)),
        ((77, 130), (607, 1024)),
        ((1080, 1920), (576, 1024)),
        ((2448, 3264), (768, 1024)),
        ((1023, 2047), (512, 1024)),
        ((1365, 2048), (683, 1024)),
        ((1, 1), (1024, 1024)),
        ((1, 2048), (1, 1024)),
        ((1, 5000), (0, 1024)),
    ],
)
def test_the_size_in_the_frame_rounds_half_up(original_size, expected):
    found = input_size(original_size)

    assert found == expected
    assert input_size(original_size[::-1]) == expected[::-1]


@pytest.mark.parametrize(
    "size", [(48, 60), (1, 1), (1024, 1024), (3, 1500), (1200, 900), (700, 1024), (1500, 1), (2000, 300)], ids=str
)
def test_preprocessing_is_bit_for_bit_the_float32_arithmetic(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    frame = preprocess(image, MEAN, STD)

    height, width = frame_side(size[0], max(size)), frame_side(size[1], max(size))
    columns = Image.fromarray(image).resize((width, size[0]), Image.Resampling.BILINEAR)
    resized = np.asarray(columns.resize((width, height), Image.Resampling.BILINEAR))
    expected = np.zeros((1024, 1024, 3), np.float32)
    expected[:height, :width] = (resized.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    assert frame.dtype == np.float32
    assert frame.flags.c_contiguous
    assert frame.tobytes() == expected.transpose(2, 0, 1).tobytes()


def test_preprocessing_equals_torch_bit_for_bit():
    torch = pytest.importorskip("torch")
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.repeat(levels.repeat(64, 0).repeat(64, 1)[..., None], 3, axis=2)

    frame = preprocess(image, MEAN, STD)

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = (torch.from_numpy(image.transpose(2, 0, 1).copy()).float() - mean) / std
    assert frame.tobytes() == expected.numpy().tobytes()


def test_another_frame_takes_the_same_steps():
    image = gradient(100, 50)

    frame = preprocess(image, MEAN, STD, image_size=64)

    assert frame.shape == (3, 64, 64)
    assert (frame[:, :, 32:] == 0.0).all()


def test_an_image_that_vanishes_in_the_frame_is_an_error_of_the_caller():
    image = np.zeros((1, 5000, 3), np.uint8)

    with pytest.raises(ValueError, match="none in the frame"):
        preprocess(image, MEAN, STD)


@settings(deadline=None)
@given(sizes(5000), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_a_point_is_converted_back_from_the_frame_within_half_a_pixel(size, shares):
    height, width = size
    points = np.array(shares) * (width, height)

    frame = points_to_frame(points, Frame(size))

    assert frame.dtype == np.float32
    assert np.abs(points_from_frame(frame, Frame(size)) - points).max() < 0.5
    assert (frame >= 0).all()
    assert (frame <= FRAME_SIZE).all()


def test_each_axis_has_the_ratio_of_its_own_rounded_size():
    points = [[900.0, 600.0], [450.0, 300.0], [-9.0, 0.0]]

    frame = points_to_frame(points, Frame((600, 900)))

    assert np.array_equal(frame, np.array([[1024, 683], [512, 341.5], [-9 * 1024 / 900, 0]], np.float32))


def applied(values, frame):
    """Apply the operators of both axes, tap by tap."""
    rows, columns = upsampling(frame)
    wide = sum(values[:, columns.first + tap] * columns.weights[:, tap] for tap in range(TAPS))
    return sum(wide[rows.first + tap] * rows.weights[:, tap, np.newaxis] for tap in range(TAPS))


@settings(max_examples=40, deadline=None)
@given(logits(), frames())
def test_upsampled_logits_equal_the_full_path(values, frame):
    expected = upsampled(values, frame)

    found = applied(values, frame)

    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(values).max())


@pytest.mark.parametrize("size", [(1200, 1600), (333, 500), (1, 2048), (2000, 3), (90, 60)], ids=str)
def test_the_reference_path_equals_torch(size):
    # torch places samples in float32, which moves them by up to 1e-4 of a pixel and a value by that share of a step.
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(scale=5, size=(256, 256)).astype(np.float32)

    expected = upsampled(values, Frame(size))

    def resized(samples, shape):
        return torch.nn.functional.interpolate(samples, shape, mode="bilinear", align_corners=False)

    height, width = frame_side(size[0], max(size)), frame_side(size[1], max(size))
    frame = resized(torch.from_numpy(values)[None, None], (1024, 1024))[..., :height, :width]
    assert np.abs(resized(frame, size)[0, 0].numpy() - expected).max() < 1e-4 * np.abs(values).max()
