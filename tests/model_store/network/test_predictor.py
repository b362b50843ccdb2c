"""From image and prompt to masks of the image's size, our predictor equals the official one."""

import hashlib

import numpy as np
import pytest
from support.official_reference import (
    BOTH,
    assert_masks_agree,
    assert_stability_agrees,
    assert_stats_agree,
    open_reference,
)

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from model_store.network.frames import frame, resize_float
from model_store.network.predictor import TorchPredictor
from service.sam.frame import Frame
from service.sam.transforms import points_to_frame

TOLERANCE = 5e-5
SCORE_TOLERANCE = 1e-5

IMAGES = ["land", "port", "small"]
EVERY_IMAGE = [("committed", "small")] + [pytest.param("full", image, marks=pytest.mark.fixtures) for image in IMAGES]


def resized(arrays, image):
    """The uint8 pixels inside the frame, recovered from the normalised ones."""
    height, width, _ = arrays[f"{image}/resized_shape"]
    inside = frame(arrays[f"{image}/image_u8_hwc"])[0, :, :height, :width].permute(1, 2, 0).numpy()
    return np.rint(inside.astype(np.float64) * PIXEL_STD + PIXEL_MEAN).astype(np.uint8)


@pytest.mark.parametrize(("name", "image"), EVERY_IMAGE)
def test_the_frame_agrees_to_the_byte(name, image):
    arrays = open_reference(name).predictor

    pixels = resized(arrays, image)

    assert np.array_equal(pixels[::31, ::31], arrays[f"{image}/resized_slice"])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == str(arrays[f"{image}/resized_sha256"])


@pytest.mark.parametrize(("name", "image"), EVERY_IMAGE)
def test_the_resize_of_training_agrees(name, image):
    arrays = open_reference(name).predictor

    pixels = resize_float(arrays[f"{image}/image_u8_hwc"]).numpy()

    assert pixels.shape[1:] == tuple(arrays[f"{image}/resized_shape"][:2])
    np.testing.assert_allclose(pixels[:, ::31, ::31], arrays[f"{image}/train_resized_slice"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "image"), EVERY_IMAGE)
def test_coordinates_agree(name, image):
    arrays = open_reference(name).predictor
    size = tuple(int(side) for side in arrays[f"{image}/image_shape"][:2])

    points = points_to_frame(arrays[f"{image}/points"], Frame(size))
    box = points_to_frame(arrays[f"{image}/box"].reshape(2, 2), Frame(size))

    np.testing.assert_array_equal(points, arrays[f"{image}/points_1024"].astype(np.float32))
    np.testing.assert_array_equal(box.reshape(1, 4), arrays[f"{image}/box_1024"].astype(np.float32))


@pytest.mark.parametrize(("name", "image"), EVERY_IMAGE)
def test_embedding_and_masks_agree(name, image, model):
    arrays = open_reference(name).predictor
    predictor = TorchPredictor(model)
    points = {"points": arrays[f"{image}/points"], "labels": [1, 0]}
    calls = {
        "pt4_stab": {**points, "num_multimask_outputs": 4},
        "pt3_default": {"points": points["points"][:1], "labels": [1], "num_multimask_outputs": 3},
        "box1": {"box": arrays[f"{image}/box"], "num_multimask_outputs": 1},
    }

    embedded = predictor.embed(arrays[f"{image}/image_u8_hwc"])
    predictions = {call: predictor.predict(embedded, **arguments) for call, arguments in calls.items()}

    embedding = embedded.embedding.numpy()
    part = embedding[0, ::4, ::8, ::8]
    np.testing.assert_allclose(part, arrays[f"{image}/embedding_slice"], rtol=0, atol=TOLERANCE)
    assert_stats_agree(embedding, arrays[f"{image}/embedding_stats"])
    for call, prediction in predictions.items():
        expected = {key: arrays[f"{image}/{call}/{key}"] for key in ("scores", "logits_slice", "low_res_slice")}
        assert prediction.masks.shape == tuple(arrays[f"{image}/{call}/mask_shape"])
        logits, low_res = prediction.logits[:, ::29, ::29], prediction.mask_logits[:, ::16, ::16]
        np.testing.assert_allclose(low_res, expected["low_res_slice"], rtol=0, atol=TOLERANCE, err_msg=call)
        np.testing.assert_allclose(logits, expected["logits_slice"], rtol=0, atol=TOLERANCE, err_msg=call)
        assert_masks_agree(prediction.logits, arrays[f"{image}/{call}/mask_bits"])
        if call == "pt4_stab":
            assert_stability_agrees(prediction.stability, expected["scores"], prediction.mask_logits)
        else:
            np.testing.assert_allclose(prediction.iou_predictions, expected["scores"], rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", BOTH)
def test_no_image_is_left_out(name):
    images = {key.split("/")[0] for key in open_reference(name).predictor}

    assert images == (set(IMAGES) if name == "full" else {"small"})


def test_points_without_labels_are_refused(model):
    predictor = TorchPredictor(model)
    embedded = predictor.embed(np.zeros((8, 16, 3), np.uint8))

    with pytest.raises(ValueError, match="together"):
        predictor.predict(embedded, points=[[1, 2]])
