"""Answers of the real process to random prompts equal those that PyTorch computes, for EdgeTAM and SAM 2.1.

Each model is a checkpoint that the command `import` converts where torch is absent. Both prompt decoders are compared.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from support.answered_masks import full_mask
from support.made_once import made_once
from support.sam2_artifacts import import_sam2_model
from support.sam2_model import sam2_model
from support.sam2_prompts import (
    SIZES,
    Asked,
    image_arrays,
    mask_iou,
    png_file,
    random_prompts,
    refining,
)
from support.service_client import embed, open_client, segment
from support.service_process import ServiceProcess

from model_store.architectures import architecture
from model_store.network.predictor import EmbeddedImage, Prediction, TorchPredictor

PROMPTS = 100
MIN_IOU = 0.999
SCORE_TOLERANCE = 2e-3
DECODERS = ("native", "onnx")
START_S = 300.0  # models of gigabytes on a busy machine
NAMES = [
    pytest.param("edgetam", marks=pytest.mark.slow),
    *(
        pytest.param(name, marks=pytest.mark.large)
        for name in ("sam2.1-tiny", "sam2.1-small", "sam2.1-base-plus", "sam2.1-large")
    ),
]


class Reference:
    """The network in PyTorch, which embeds the images and predicts the masks of equal prompts once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._predictor = TorchPredictor(sam2_model(name))
        self._embedded: dict[int, EmbeddedImage] = {}
        self._predicted: dict[tuple, Prediction] = {}

    def predict(self, image: int, arrays: dict, count: int) -> Prediction:
        """Return `count` masks of a prompt on one of the images."""
        if image not in self._embedded:
            self._embedded[image] = self._predictor.embed(image_arrays()[image])
        key = (image, count, *((name, array.tobytes()) for name, array in arrays.items()))
        if key not in self._predicted:
            self._predicted[key] = self._predictor.predict(self._embedded[image], **arrays, num_multimask_outputs=count)
        return self._predicted[key]

    def official_outputs(self, asked: Asked, arrays: dict) -> list[int]:
        """Return the outputs that the official predictor's calls amount to, best first."""
        ious = self.predict(asked.image, arrays, 4).iou_predictions
        if asked.multimask == 1 or (asked.multimask == "auto" and asked.kind != "point"):
            one_mask = self.predict(asked.image, arrays, 1)
            return [int(np.argmin(np.abs(ious - one_mask.iou_predictions)))]
        offered = (0, 1, 2, 3) if asked.multimask == 4 else architecture(self.name).ambiguous
        return sorted(offered, key=lambda output: -ious[output])


@pytest.fixture(scope="module", params=NAMES)
def reference(request):
    """The network of each architecture."""
    return Reference(request.param)


@pytest.fixture(scope="module")
def served(reference, tmp_path_factory, redis_server) -> Callable[..., contextlib.AbstractContextManager]:
    """A function that starts a process with the imported model; its processes share embeddings."""
    folder = made_once(
        tmp_path_factory, f"{reference.name}-imported", functools.partial(import_sam2_model, reference.name)
    )

    @contextlib.contextmanager
    def serve(**settings: str) -> Iterator[tuple[httpx.Client, list[str]]]:
        own = {
            "EDGESAM_MODEL_DIR": str(folder / reference.name),
            "EDGESAM_REDIS_URL": redis_server.url,
            "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
            "EDGESAM_EMBED_TIMEOUT_S": str(START_S),
        }
        named = {f"EDGESAM_{key.upper()}": value for key, value in settings.items()}
        with ServiceProcess({**own, **named}, wait_s=START_S) as service, open_client(service.url) as client:
            client.timeout = httpx.Timeout(START_S)
            yield client, [embed(client, png_file(image)) for image in image_arrays()]

    return serve


def test_a_hundred_random_prompts_give_the_masks_of_torch_with_both_decoders(reference, served):
    for decoder in DECODERS:
        with served(embedding_dtype="float32", decoder=decoder) as (client, image_ids):
            assert client.get("/models").json()["models"][0]["decoder"].startswith(decoder)
            for asked in random_prompts(PROMPTS, seed=20):
                assert_answer_of_torch(client, image_ids[asked.image], reference, asked)


def test_rounding_embeddings_to_float16_changes_few_pixels(reference, served):
    ious, errors = [], []
    with served() as (client, image_ids):
        for asked in random_prompts(24, seed=21, kinds=("point", "points", "box", "box and points")):
            (masks,) = segment(client, image_ids[asked.image], asked.document(), multimask=4, format="rle")
            expected = reference.predict(asked.image, asked.arrays, 4)
            for mask, output in matched(masks, expected, [0, 1, 2, 3]):
                ious.append(mask_iou(full_mask(mask, SIZES[asked.image]), expected.masks[output]))
                errors.append(abs(mask["predicted_iou"] - float(expected.iou_predictions[output])))

    print(
        f"{reference.name} with float16 embeddings: mask IoU mean {np.mean(ious):.5f}, least {min(ious):.5f}; "
        f"predicted IoU off by at most {max(errors):.1e}"
    )
    assert np.mean(ious) >= 0.999
    assert min(ious) >= 0.998
    assert max(errors) <= SCORE_TOLERANCE


def assert_answer_of_torch(client: httpx.Client, image_id: str, reference: Reference, asked: Asked) -> None:
    """Check the masks of a prompt, their predicted IoUs and their order."""
    document, arrays = refining(client, image_id, asked)
    (masks,) = segment(client, image_id, document, multimask=asked.multimask, format="rle")
    expected = reference.predict(asked.image, arrays, 4)
    outputs = reference.official_outputs(asked, arrays)

    assert len(masks) == len(outputs), asked
    ious = [mask["predicted_iou"] for mask in masks]
    np.testing.assert_allclose(ious, expected.iou_predictions[outputs], atol=SCORE_TOLERANCE, err_msg=str(asked))
    for mask, output in matched(masks, expected, outputs):
        overlap = mask_iou(full_mask(mask, SIZES[asked.image]), expected.masks[output])
        assert overlap >= MIN_IOU, f"{asked}, output {output}: mask IoU {overlap:.5f}"


def matched(masks: list[dict], expected: Prediction, outputs: list[int]) -> Iterator[tuple[dict, int]]:
    """Yield each mask with its output of the decoder. Which one it is, the predicted IoUs tell."""
    left = set(outputs)
    for mask in masks:
        output = min(left, key=lambda index: abs(expected.iou_predictions[index] - mask["predicted_iou"]))
        left.remove(output)
        yield mask, output
