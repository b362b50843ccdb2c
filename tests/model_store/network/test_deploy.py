"""The deploy form of a model, and the rules of its parts that need no reference."""

import hashlib
import json

import numpy as np
import pytest
import torch
from support.official_reference import FULL, open_reference, reference_image
from support.reference_weights import state_dict

from model_store.checkpoint import seeded_model
from model_store.network.frames import frame
from model_store.network.model import build_model
from model_store.network.predictor import TorchPredictor

TOLERANCE = 2e-5  # docs/explanation/model.md, section 2.5 measured 5e-6 for folding alone


def keys_and_shapes(model):
    return {
        key: (list(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in model.state_dict().items()
    }


def test_train_form_and_deploy_form_agree(model, embedding):
    deployed = model.deploy()

    with torch.inference_mode():
        folded = deployed.image_encoder(frame(reference_image())).numpy()

    np.testing.assert_allclose(folded, embedding, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_forms_of_other_weights_cut_out_the_same_masks(seed, make_model):
    model = make_model(seed)
    image = reference_image()[:600, :900]
    prompts = [
        {"points": [[500, 375]], "labels": [1]},
        {"points": [[300, 250], [380, 460]], "labels": [1, 0], "box": [160, 190, 390, 470]},
        {"box": [480, 180, 850, 540]},
    ]

    predictors = [TorchPredictor(model), TorchPredictor(model.deploy())]
    embedded = [predictor.embed(image) for predictor in predictors]
    train, deploy = ([p.predict(e, **prompt) for prompt in prompts] for p, e in zip(predictors, embedded, strict=True))

    np.testing.assert_allclose(embedded[1].embedding, embedded[0].embedding, rtol=0, atol=TOLERANCE)
    for expected, got in zip(train, deploy, strict=True):
        np.testing.assert_allclose(got.mask_logits, expected.mask_logits, rtol=0, atol=5e-5)
        np.testing.assert_allclose(got.iou_predictions, expected.iou_predictions, rtol=0, atol=1e-5)
        assert np.abs(expected.logits[got.masks != expected.masks]).max(initial=0.0) < 1e-4


def test_a_mask_prompt_changes_the_masks(make_model):
    predictor = TorchPredictor(make_model(1))
    embedded = predictor.embed(reference_image()[:600, :900])
    first = predictor.predict(embedded, points=[[500, 375]], labels=[1], num_multimask_outputs=1)

    second = predictor.predict(
        embedded, points=[[500, 375]], labels=[1], mask_logits=first.mask_logits[0], num_multimask_outputs=1
    )

    assert np.abs(second.mask_logits - first.mask_logits).max() > 0.01


def test_the_parameter_counts_are_the_published_ones():
    model = build_model()

    counts = [sum(value.numel() for value in form.parameters()) for form in (model, model.deploy())]

    assert counts == [9_582_112, 9_550_456]


def test_deploying_leaves_the_model_and_the_random_state_alone():
    model = seeded_model(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.random.get_rng_state()

    model.deploy()

    assert model.training
    assert not model.is_deployed
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_keys_and_shapes_are_the_official_ones():
    lines = [f"{key} {shape} {dtype}" for key, (shape, dtype) in sorted(keys_and_shapes(build_model()).items())]

    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()

    assert len(lines) == 821
    assert digest == "7abdd285ee94a1fc9f1d7490d38f1ad97e2b8d3e73aa1aa4466d65dfb770ecf7"


@pytest.mark.fixtures
def test_keys_and_shapes_are_those_of_the_full_list():
    open_reference("full")
    listed = json.loads((FULL / "edgesam_state_dict.json").read_text())

    ours = keys_and_shapes(build_model())

    assert ours == {key: (entry["shape"], entry["dtype"]) for key, entry in listed.items()}


def test_reference_weights_are_the_same_everywhere():
    shapes = {"mask_decoder.iou_token.weight": (1, 256)}

    array = state_dict(shapes, 0)["mask_decoder.iou_token.weight"]

    assert (
        hashlib.sha256(array.tobytes()).hexdigest()
        == "f7069dfc896b88cff39c0a2b22a7d9eeb0ac519bea2f43df9f3f2da98d6a276b"
    )


def test_the_encoder_takes_smaller_frames(make_model):
    encoder = make_model(0).image_encoder

    with torch.inference_mode():
        embedding = encoder(torch.zeros(2, 3, 96, 160))

    assert embedding.shape == (2, 256, 6, 10)
