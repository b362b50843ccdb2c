"""Torch's modules, the exported graphs and the decoder in C answer as the official decoder of every architecture.

The two epsilons of the family differ by more than the tolerance: a decoder with the wrong one fails.
"""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.family_model import family_model
from support.official_reference import assert_masks_agree, assert_parts_agree, assert_stability_agrees
from support.sam_family_reference import (
    CASES,
    COMMITTED_CASES,
    COMMITTED_NAMES,
    FULL_NAMES,
    FamilyReference,
    family_image,
    open_family,
)
from support.sam_family_weights import decoder_state_dict

from model_store.architectures import architecture
from model_store.export.graphs.prepare import PrepareGraph
from model_store.export.onnx_export import write_prompt_graphs
from model_store.export.onnx_session import open_graph
from model_store.export.parity import decode
from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.frames import frame
from model_store.network.mask_decoder import MaskDecoder, stability_score
from model_store.network.model import PromptableModel, build_model
from service.manifest import STATE_NAMES
from service.native import best_level
from service.native.decoder import NativeDecoder
from service.sam.frame import Frame
from service.sam.prompts import Prompt, decoder_inputs

LOGITS_TOLERANCE = 5e-5
SCORE_TOLERANCE = 1e-5
FRAME = Frame((1024, 1024))

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]
Decode = Callable[[np.ndarray, list[Prompt]], Outputs]


def with_decoder_of(name: str, *, norm_epsilon: float | None = None) -> PromptableModel:
    """Return a model with the prompt encoder and the mask decoder of an architecture, and any image encoder."""
    model = build_model("edgesam")
    model.mask_decoder = MaskDecoder(norm_epsilon=norm_epsilon or architecture(name).norm_epsilon)
    arrays = {key: torch.from_numpy(array) for key, array in decoder_state_dict(name).items()}
    found = model.load_state_dict(arrays, strict=False)
    assert all(key.startswith("image_encoder.") for key in found.missing_keys)
    assert not found.unexpected_keys
    return model.eval()


def by_torch(model, _folder) -> Decode:
    def run(embedding, prompts):
        rows = [decode(model, EncodedImage(torch.from_numpy(embedding)), prompt) for prompt in prompts]
        mask_logits, iou_predictions = (torch.cat(part) for part in zip(*rows, strict=True))
        return mask_logits.numpy(), iou_predictions.numpy(), stability_score(mask_logits).numpy()

    return run


def by_graphs(model, folder) -> Decode:
    sessions = {
        graph: open_graph(path, threads=1) for graph, path in write_prompt_graphs(model, folder, lambda _: None).items()
    }

    def run(embedding, prompts):
        masks = [prompt.mask_logits for prompt in prompts if prompt.mask_logits is not None]
        stacked = np.stack(masks) if masks else np.zeros((1, 256, 256), np.float32)
        given = {"tokens": tokens_of(embedding), "mask_logits": stacked, "has_mask": np.full(len(stacked), bool(masks))}
        state = dict(zip(STATE_NAMES, sessions["prepare"].run(list(STATE_NAMES), given), strict=True))
        points, labels = decoder_inputs(prompts, FRAME)
        outputs = ["mask_logits", "iou_predictions", "stability"]
        return tuple(sessions["decoder"].run(outputs, {"points": points, "labels": labels, **state}))

    return run


def by_native(model, _folder) -> Decode:
    parameters = {key: value.numpy() for key, value in model.state_dict().items() if "image_encoder" not in key}
    epsilon = model.mask_decoder.transformer.norm_final_attn.eps
    native = NativeDecoder(parameters, norm_epsilon=epsilon, threads=1)
    prepare_masks = PrepareGraph(model)

    def run(embedding, prompts):
        masks = [prompt.mask_logits for prompt in prompts if prompt.mask_logits is not None]
        tokens = tokens_of(embedding)
        if masks:  # the decoder in C leaves mask prompts to the graph
            given = torch.from_numpy(np.stack(masks))
            with torch.inference_mode():
                arrays = prepare_masks(torch.from_numpy(tokens), given, torch.ones(len(masks), dtype=torch.bool))
            state = tuple(array.numpy() for array in arrays)
        else:
            state = native.prepare(tokens, threads=1)
        return native.decode(*state, *decoder_inputs(prompts, FRAME), threads=1)

    return run


IMPLEMENTATIONS = [
    by_torch,
    by_graphs,
    pytest.param(by_native, marks=pytest.mark.skipif(best_level() is None, reason="no build runs here")),
]


def tokens_of(embedding: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(embedding[0].reshape(256, -1).T)


EVERY_MODEL = [("committed", name) for name in COMMITTED_NAMES] + [
    pytest.param("full", name, marks=pytest.mark.fixtures) for name in FULL_NAMES
]


@pytest.fixture(scope="module")
def embedding_of():
    """A function that returns the exact embedding of a reference; our own one is computed once for each model."""

    @functools.cache
    def computed(name: str) -> np.ndarray:
        model = family_model(name)
        with torch.inference_mode():
            embedding: torch.Tensor = model.image_encoder(frame(family_image(), model.image_size))
        return embedding.numpy()

    def exact(reference: FamilyReference, name: str) -> np.ndarray:
        return reference.embedding(None if reference.has_embedding else computed(name))

    return exact


@pytest.mark.parametrize("make", IMPLEMENTATIONS)
@pytest.mark.parametrize(("part", "name"), EVERY_MODEL)
def test_all_masks_and_scores_agree(part, name, make, embedding_of, tmp_path):
    reference = open_family(name, part)
    embedding = embedding_of(reference, name)
    decode_prompts = make(with_decoder_of(name), tmp_path)
    compared = set()

    for case in reference.cases():
        mask_logits, iou, stability = decode_prompts(embedding, case.prompts)

        expected = {"mask_logits_slice": case.expected["mask_logits_slice"]}
        assert_parts_agree({"mask_logits_slice": mask_logits[:, :, ::8, ::8]}, expected, LOGITS_TOLERANCE)
        np.testing.assert_allclose(iou, case.expected["iou_pred"], rtol=0, atol=SCORE_TOLERANCE, err_msg=case.name)
        if part == "full":
            assert_masks_agree(mask_logits, case.expected["mask_bits"])
            assert_stability_agrees(stability, case.expected["stability"], mask_logits)
        compared.add(case.name)
    assert compared == set(CASES if part == "full" else COMMITTED_CASES)


@pytest.mark.parametrize("make", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("name", "other"), [("efficientvit-sam-l0", 1e-5), ("mobile-sam", 1e-6)], ids=["1e-5 for 1e-6", "1e-6 for 1e-5"]
)
def test_the_other_epsilon_is_noticed(name, other, make, embedding_of, tmp_path):
    reference = open_family(name, "committed")
    embedding = embedding_of(reference, name)
    decode_prompts = make(with_decoder_of(name, norm_epsilon=other), tmp_path)

    worst = 0.0
    for case in reference.cases():
        mask_logits, _, _ = decode_prompts(embedding, case.prompts)
        worst = max(worst, float(np.abs(mask_logits[:, :, ::8, ::8] - case.expected["mask_logits_slice"]).max()))

    assert worst > 1.5 * LOGITS_TOLERANCE
