"""SAM 2's prompt encoder and mask decoder in torch answer as the official ones."""

import numpy as np
import pytest
import torch
from support.official_reference import assert_masks_agree, assert_stats_agree
from support.sam2_decoding import decode_case, encode_prompts
from support.sam2_model import with_sam2_decoder
from support.sam2_reference import CASES, COMMITTED_CASES, COMMITTED_NAMES, DECODER_NAMES, open_sam2

from model_store.network.model import PromptableModel, build_model

LOGITS_TOLERANCE = 5e-5
SCORE_TOLERANCE = 1e-5
# Sines of arguments up to 20, whose product torch may round in another order: up to 2e-6 was seen.
SPARSE_TOLERANCE = 4e-6
EVERY_MODEL = [("committed", name) for name in COMMITTED_NAMES] + [
    pytest.param("full", name, marks=pytest.mark.fixtures) for name in DECODER_NAMES
]


@pytest.fixture(scope="module")
def models() -> dict[str, PromptableModel]:
    """Models with the decoders of all references. No image encoder computes here."""
    return {name: with_sam2_decoder(build_model("edgetam"), name) for name in DECODER_NAMES}


@pytest.mark.parametrize(("part", "name"), EVERY_MODEL)
def test_all_masks_and_scores_agree(part, name, models):
    reference = open_sam2(name, part)
    compared = set()

    for case in reference.cases():
        decoded = decode_case(models[name], reference.maps, case)

        logits, expected = decoded.mask_logits.numpy(), case.expected
        assert decoded.object_scores is not None
        for found, key, tolerance in (
            (logits[:, :, ::8, ::8], "mask_logits_slice", LOGITS_TOLERANCE),
            (decoded.iou_predictions.numpy(), "iou_pred", SCORE_TOLERANCE),
            (decoded.object_scores.numpy(), "object_score_logit", SCORE_TOLERANCE),
        ):
            np.testing.assert_allclose(found, expected[key], rtol=0, atol=tolerance, err_msg=f"{case.name} {key}")
        if part == "full":
            assert_masks_agree(logits.reshape(1, -1, 256), expected["mask_bits"][None])
            for row, stats in zip(
                logits.reshape(-1, 256, 256), expected["mask_logits_stats"].reshape(-1, 5), strict=True
            ):
                assert_stats_agree(row, stats)
        compared.add(case.name)
    assert compared == set(CASES if part == "full" else COMMITTED_CASES)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", DECODER_NAMES)
def test_the_tokens_of_prompts_agree(name, models):
    reference = open_sam2(name, "full")
    for case in reference.cases():
        sparse, dense = encode_prompts(models[name], case)
        # The official code puts the corners of a box in front of the points; the order has no effect on masks.
        expected = case.expected["sparse"]
        if "boxes" in case.expected:
            expected = np.concatenate([expected[:, 2:-1], expected[:, :2], expected[:, -1:]], axis=1)

        np.testing.assert_allclose(sparse.numpy(), expected, rtol=0, atol=SPARSE_TOLERANCE, err_msg=case.name)
        dense_slice = dense[:, ::16, ::16, ::16].detach().numpy()
        np.testing.assert_allclose(dense_slice, case.expected["dense_slice"], rtol=0, atol=SPARSE_TOLERANCE)


@pytest.mark.parametrize(("count", "chosen"), [(1, slice(0, 1)), (3, slice(1, 4))])
def test_fewer_masks_are_a_part_of_all(count, chosen, models):
    reference = open_sam2("edgetam", "committed")
    case = next(reference.cases())

    some, every = (decode_case(models["edgetam"], reference.maps, case, number) for number in (count, 4))

    assert some.mask_logits.shape == (1, count, 256, 256)
    torch.testing.assert_close(some.mask_logits, every.mask_logits[:, chosen], rtol=0, atol=1e-5)
    assert torch.equal(some.iou_predictions, every.iou_predictions[:, chosen])


def test_a_decoder_without_its_maps_says_what_it_needs(models):
    model = models["edgetam"]
    sparse, dense = model.prompt_encoder(None, torch.tensor([[100.0, 100.0, 300.0, 300.0]]))
    code = model.prompt_encoder.dense_positional_code()

    with pytest.raises(ValueError, match="high-resolution maps"):
        model.mask_decoder(torch.zeros(1, 256, 64, 64), code, sparse, dense)
