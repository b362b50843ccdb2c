"""Prompt encoder and mask decoder give what the official ones give, in all cases and at every step."""

import numpy as np
import pytest
import torch
from support.official_reference import (
    BOTH,
    COMMITTED_CASES,
    COMMITTED_PROMPTS,
    assert_masks_agree,
    assert_parts_agree,
    assert_stability_agrees,
    assert_stats_agree,
    open_reference,
)

from model_store.export.graphs.official import OfficialDecoder
from model_store.network.mask_decoder import stability_score

TOLERANCE = 5e-5
TOKEN_TOLERANCE = 1e-5  # sparse tokens and scores

CASES = (
    "point1", "point1_neg", "point2_posneg", "point3_intlabels", "point_with_pad_label",
    "box", "box_point", "box_2points", "box_ignored_point", "point_ignored_point",
    "mask_only", "point_mask", "box_mask", "boxes3", "points3", "boxes3_points_boxlabel", "no_prompt",
)  # fmt: skip
EVERY_CASE = [("committed", case) for case in COMMITTED_CASES] + [
    pytest.param("full", case, marks=pytest.mark.fixtures) for case in CASES
]
OFFICIAL_PROMPTS = ("point1", "point1_padded", "point2", "box_as_2_3", "box_point")
EVERY_OFFICIAL_PROMPT = [("committed", prompt) for prompt in COMMITTED_PROMPTS] + [
    pytest.param("full", prompt, marks=pytest.mark.fixtures) for prompt in OFFICIAL_PROMPTS
]


def run_case(model, arrays, case, image_embedding):
    """All results of a case by their names in the reference, in full size."""
    inputs = {key.removeprefix(f"{case}/"): value for key, value in arrays.items() if key.startswith(f"{case}/")}
    given = {key: torch.from_numpy(inputs[key]) for key in ("points", "labels", "boxes", "box_labels") if key in inputs}
    points = (given["points"], given["labels"]) if "points" in given else None
    mask = torch.from_numpy(arrays["mask_input"]) if "uses_mask_input" in inputs else None
    decoder = model.mask_decoder
    taken = {}
    hooks = [
        decoder.transformer.layers[0].register_forward_hook(lambda _m, _i, output: taken.update(layer0=output)),
        decoder.transformer.register_forward_hook(lambda _m, _i, output: taken.update(transformer=output)),
        decoder.output_upscaling.register_forward_hook(lambda _m, _i, output: taken.update(up=output)),
    ]
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(points, given.get("boxes"), mask, given.get("box_labels"))
        code = model.prompt_encoder.dense_positional_code()
        mask_logits, iou = decoder(image_embedding, code, sparse, dense)
        of_some = {n: decoder(image_embedding, code, sparse, dense, n) for n in (1, 3)}
    for hook in hooks:
        hook.remove()
    results = {
        "sparse": sparse,
        "dense": dense,
        "l0_tokens": taken["layer0"][0],
        "l0_keys": taken["layer0"][1],
        "tokens": taken["transformer"][0],
        "keys": taken["transformer"][1],
        "up": taken["up"],
        "mask_logits": mask_logits,
        "iou_pred": iou,
        "stability": stability_score(mask_logits),
    }
    return inputs, {key: value.detach().numpy() for key, value in results.items()}, of_some


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_every_step_of_a_case_agrees(name, case, model, embedding):
    reference = open_reference(name)

    expected, got, of_some = run_case(model, reference.decoder, case, reference.embedding(embedding))

    parts = {
        "dense_slice": got["dense"][:, :, ::16, ::16],
        "l0_tokens": got["l0_tokens"],
        "l0_keys_slice": got["l0_keys"][:, ::257],
        "tokens": got["tokens"],
        "keys_slice": got["keys"][:, ::257],
        "up_slice": got["up"][:, :, ::32, ::32],
        "mask_logits_slice": got["mask_logits"][:, :, ::8, ::8],
    }
    assert_parts_agree(parts, expected, TOLERANCE)
    np.testing.assert_allclose(got["sparse"], expected["sparse"], rtol=0, atol=TOKEN_TOLERANCE)
    np.testing.assert_allclose(got["iou_pred"], expected["iou_pred"], rtol=0, atol=TOKEN_TOLERANCE)
    assert_stability_agrees(got["stability"], expected["stability"], got["mask_logits"])
    assert_masks_agree(got["mask_logits"], expected["mask_bits"])
    for index in np.ndindex(got["iou_pred"].shape):
        assert_stats_agree(got["mask_logits"][index], expected["mask_logits_stats"][index])
    if "mask_logits_f16" in expected:
        whole = expected["mask_logits_f16"].astype(np.float32)
        np.testing.assert_allclose(got["mask_logits"], whole, rtol=2.0**-11, atol=TOLERANCE)
    compared = {"sparse", "iou_pred", "stability", "mask_bits", "mask_logits_stats", "mask_logits_f16", *parts}
    inputs = {"points", "labels", "boxes", "box_labels", "uses_mask_input"}
    assert set(expected) <= compared | inputs
    for count, selected in ((1, slice(0, 1)), (3, slice(1, 4))):
        masks, iou = of_some[count]
        np.testing.assert_allclose(masks, got["mask_logits"][:, selected], rtol=0, atol=TOKEN_TOLERANCE)
        np.testing.assert_array_equal(iou, got["iou_pred"][:, selected])


@pytest.mark.parametrize("name", BOTH)
def test_the_dense_positional_code_agrees(name, model):
    expected = open_reference(name).decoder

    with torch.inference_mode():
        code = model.prompt_encoder.dense_positional_code().numpy()

    assert_parts_agree({"image_pe_slice": code[0, :, ::8, ::8]}, expected, TOKEN_TOLERANCE)
    assert_stats_agree(code, expected["image_pe_stats"])


@pytest.mark.parametrize(("name", "prompt"), EVERY_OFFICIAL_PROMPT)
def test_the_published_decoder_agrees(name, prompt, model, embedding):
    reference = open_reference(name)
    arrays = reference.onnx_decoder
    inputs = [torch.from_numpy(arrays[f"{prompt}/{key}"]) for key in ("point_coords", "point_labels")]
    image_embedding = reference.embedding(embedding)

    with torch.inference_mode():
        stability, masks = OfficialDecoder(model)(image_embedding, *inputs)
        iou, _ = OfficialDecoder(model, use_stability_score=False)(image_embedding, *inputs)

    masks = masks.numpy()
    np.testing.assert_allclose(masks[:, :, ::8, ::8], arrays[f"{prompt}/masks_slice"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(iou, arrays[f"{prompt}/iou_scores"], rtol=0, atol=TOKEN_TOLERANCE)
    assert_stability_agrees(stability.numpy(), arrays[f"{prompt}/stab_scores"], masks)
    for index in range(4):
        assert_stats_agree(masks[0, index], arrays[f"{prompt}/masks_stats"][index])


@pytest.mark.fixtures
def test_no_case_is_left_out():
    reference = open_reference("full")

    cases = tuple(reference.decoder["case_names"])
    prompts = {key.split("/")[0] for key in reference.onnx_decoder}

    assert cases == CASES
    assert prompts == set(OFFICIAL_PROMPTS)


def test_an_empty_mask_has_stability_zero():
    mask_logits = torch.full((1, 4, 256, 256), -5.0)

    scores = stability_score(mask_logits)

    assert scores.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_any_other_number_of_masks_is_refused(model):
    sparse, dense = model.prompt_encoder()
    code = model.prompt_encoder.dense_positional_code()

    with pytest.raises(ValueError, match="1, 3 or 4"):
        model.mask_decoder(torch.zeros(1, 256, 64, 64), code, sparse, dense, 2)
