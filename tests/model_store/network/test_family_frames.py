"""The encoder's input and the frame of prompts equal those of the official codes, at sides of 512 and 1024 pixels."""

import hashlib

import numpy as np
import pytest
from support.sam_family_reference import COMMITTED_NAMES, FULL_NAMES, family_image, open_family

from model_store.architectures import PIXEL_MEAN, PIXEL_STD, architecture
from service.sam.transforms import input_size, preprocess

# EfficientViT-SAM divides by 255 before it normalises: a rounding of float32.
TOLERANCE = 4.8e-7

EVERY_MODEL = [("committed", name) for name in COMMITTED_NAMES] + [
    pytest.param("full", name, marks=pytest.mark.fixtures) for name in FULL_NAMES
]


@pytest.mark.parametrize(("part", "name"), EVERY_MODEL)
def test_the_input_of_the_encoder_agrees(part, name):
    arrays = open_family(name, part).arrays
    side = architecture(name).image_size

    frame = preprocess(family_image(), PIXEL_MEAN, PIXEL_STD, side)

    assert frame.shape == (3, side, side)
    np.testing.assert_allclose(frame[:, ::32, ::32], arrays["input_slice"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("part", "name"), EVERY_MODEL)
def test_the_resized_image_agrees_to_the_byte(part, name):
    arrays = open_family(name, part).arrays
    height, width, _ = arrays["resized_shape"]

    frame = preprocess(family_image(), PIXEL_MEAN, PIXEL_STD, architecture(name).image_size)

    inside = frame[:, :height, :width].transpose(1, 2, 0).astype(np.float64)
    pixels = np.rint(inside * PIXEL_STD + PIXEL_MEAN).astype(np.uint8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == str(arrays["resized_sha256"])
    assert not frame[:, height:].any()
    assert not frame[:, :, width:].any()


@pytest.mark.parametrize(("part", "name"), EVERY_MODEL)
def test_prompts_have_the_frame_of_1024_whatever_the_encoder_sees(part, name):
    arrays = open_family(name, part).arrays
    original_size = tuple(int(side) for side in arrays["original_size"])

    assert input_size(original_size) == tuple(arrays["input_size"]) == (683, 1024)
    assert input_size(original_size, architecture(name).image_size) == tuple(arrays["resized_shape"][:2])
