"""The torch predictor answers calls as the official predictor of SAM 2's family: image, coordinates, masks, choice."""

import copy

import numpy as np
import pytest
import torch
from support.official_reference import BOTH, assert_masks_agree
from support.sam2_decoding import decode_case
from support.sam2_model import sam2_model, with_sam2_decoder
from support.sam2_reference import CALLS, COMMITTED_CALLS, DECODER_NAMES, SAM2Reference, open_sam2
from support.sam2_weights import SAM2_FULL
from support.sam_family_reference import family_image

from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model
from model_store.network.predictor import EmbeddedImage, TorchPredictor, upsample_logits
from model_store.network.single_mask import narrow_stability, single_mask
from service.sam.frame import Frame
from service.sam.logits import SAM2_LARGEST_LOGIT

TOLERANCE = 1e-4
UPSCALING_TOLERANCE = 2e-4
SCORE_TOLERANCE = 1e-5
OBJECT_TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    return sam2_model("edgetam")


@pytest.fixture(scope="module")
def embedded(model: PromptableModel) -> EmbeddedImage:
    return TorchPredictor(model).embed(family_image())


def call_arguments(reference: SAM2Reference, name: str) -> list[dict[str, object]]:
    """The arguments of a call of the official predictor, one for each of its prompts."""
    call = reference.call(name)
    boxes = call["box"].reshape(-1, 4) if "box" in call else [None]
    arguments: dict[str, object] = {}
    if "point_coords" in call:
        arguments |= {"points": call["point_coords"], "labels": call["point_labels"]}
    if "mask" in name:
        arguments["mask_logits"] = reference.arrays["predict/feedback_low_res_f32"][0]
    count = 3 if call["multimask_output"] else 1
    return [{**arguments, "box": box, "num_multimask_outputs": count} for box in boxes]


@pytest.mark.parametrize("part", BOTH)
def test_every_call_of_the_predictor_agrees(part, model, embedded):
    reference, predictor = open_sam2("edgetam", part), TorchPredictor(model)
    assert reference.calls() == (CALLS if part == "full" else COMMITTED_CALLS)

    for name in reference.calls():
        expected = reference.call(name)
        rows = [predictor.predict(embedded, **arguments) for arguments in call_arguments(reference, name)]

        shape = expected["scores"].shape
        scores = np.stack([row.iou_predictions for row in rows]).reshape(shape)
        np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=SCORE_TOLERANCE, err_msg=name)
        logits = np.stack([row.logits for row in rows]).reshape(*shape, 600, 900)
        found = logits[..., ::29, ::29]
        np.testing.assert_allclose(found, expected["logits_slice"], rtol=0, atol=UPSCALING_TOLERANCE, err_msg=name)
        assert_masks_agree(logits.reshape(1, -1, 900), expected["mask_bits"][None])
        low = np.stack([row.mask_logits for row in rows]).reshape(*shape, 256, 256)[..., ::16, ::16]
        np.testing.assert_allclose(low, expected["low_res_slice"], rtol=0, atol=TOLERANCE, err_msg=name)
        objects = np.array([[row.object_score] for row in rows])
        np.testing.assert_allclose(objects, expected["object_score_logit"], rtol=0, atol=OBJECT_TOLERANCE, err_msg=name)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", DECODER_NAMES)
def test_the_only_mask_is_that_of_the_official_choice(name):
    reference = open_sam2(name, "full")
    fallback = (1, 2, 3)
    model = with_sam2_decoder(build_model("edgetam"), name)

    for case in reference.cases():
        decoded = decode_case(model, reference.maps, case)
        logits, iou = decoded.mask_logits, decoded.iou_predictions
        empty = logits.clone()
        empty[:, 0] = -1.0

        found = {
            "single_index": single_mask(logits, iou, fallback),
            "single_index_times_12": single_mask(logits * 12.0, iou, fallback),
            "single_index_iou_reversed": single_mask(logits, iou.flip(1), fallback),
            "single_index_mask0_empty": single_mask(empty, iou, fallback),
        }

        for key, index in found.items():
            np.testing.assert_array_equal(index.numpy(), case.expected[key], err_msg=f"{case.name} {key}")
        stable = narrow_stability(logits).numpy()
        near = sum((np.abs(logits.numpy() - offset) < TOLERANCE).sum((-2, -1)) for offset in (-0.05, 0.05))
        pixels = (logits.numpy() > -0.05).sum((-2, -1))
        assert (np.abs(stable - case.expected["stability_005"]) <= 1e-6 + near / pixels).all()


def test_the_choice_falls_back_only_where_output_0_is_not_stable():
    logits = torch.full((4, 4, 10, 10), -3.0)
    logits[0, 0, :7] = 3.0  # stable
    logits[1, 0, :7] = 3.0
    logits[1, 0, 7, :2] = 0.0  # 70 of 72 pixels, 0.972
    logits[2, 0, :9, :] = 3.0
    logits[2, 0, 9, 0] = 0.0  # 90 of 91 pixels, 0.989
    iou = torch.tensor([[0.1, 0.2, 0.9, 0.9]]).repeat(4, 1)  # the last prompt has an empty mask

    assert single_mask(logits, iou, (1, 2, 3)).tolist() == [0, 2, 0, 0]
    assert single_mask(logits, iou, ()).tolist() == [0, 0, 0, 0]


def test_only_the_logits_that_are_handed_back_are_limited(model, embedded):
    steep = copy.deepcopy(model)
    with torch.no_grad():
        for mlp in steep.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight *= 20.0

    predicted = TorchPredictor(steep).predict(embedded, points=[[450.0, 300.0]], labels=[1])

    assert np.abs(predicted.mask_logits).max() == SAM2_LARGEST_LOGIT
    assert np.abs(predicted.logits).max() > SAM2_LARGEST_LOGIT


@pytest.mark.fixtures
@pytest.mark.parametrize("size", [(37, 1500), (2448, 600), (100, 80), (255, 257), (1024, 1024), (1, 5)])
def test_masks_are_enlarged_in_one_step(size):
    path = SAM2_FULL / "upscaling.npz"
    if not path.is_file():
        pytest.skip("the full conformance fixtures are not beside the repository")
    low_res = torch.from_numpy(open_sam2("sam2.1-tiny", "full").arrays["predict/feedback_low_res_f32"])[None]
    height, width = size
    with np.load(path) as arrays:
        expected_slice, expected_bits = arrays[f"{height}x{width}_slice"], arrays[f"{height}x{width}_bits"]

    logits = upsample_logits(low_res, Frame(size, "stretch"))[0].numpy()

    found = logits[..., :: max(1, height // 16), :: max(1, width // 16)].reshape(expected_slice.shape)
    np.testing.assert_allclose(found, expected_slice, rtol=0, atol=UPSCALING_TOLERANCE)
    assert_masks_agree(logits.reshape(1, 1, -1), expected_bits.reshape(1, -1))


def test_a_stretched_image_has_its_own_frame(model):
    image = family_image()[:200]

    found = TorchPredictor(model).embed(image)

    assert found.frame == Frame((200, 900), "stretch")
    assert found.encoded.high_res is not None
    with torch.inference_mode():
        expected = model.image_encoder(frame(image, resize="stretch"))
    assert torch.equal(found.embedding, expected)
