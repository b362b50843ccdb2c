"""Validation while training gives the figures of the evaluation protocol."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from support.fixed_segmenter import measured

import model_store
from model_store.checkpoint import load_checkpoint
from model_store.evaluation.protocol import Protocol
from model_store.evaluation.segmenters.segmenter import Predictions
from model_store.network.frames import frame
from model_store.network.mask_decoder import stability_score
from model_store.network.model import build_model
from model_store.training.data.annotations import read_annotations
from model_store.training.loop.validation import FIGURES, ValidationSet, validate
from service.mask_rules import Ranking


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of different shapes, each with several objects; one has more than are measured."""
    path = tmp_path_factory.mktemp("validation")
    random = np.random.default_rng(0)
    with (path / "annotations.jsonl").open("w") as lines:
        for number, (height, width, count) in enumerate([(60, 80, 2), (90, 50, 1), (64, 64, 6)]):
            image = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
            masks = []
            for _ in range(count):
                x, y = random.integers(0, width - 25), random.integers(0, height - 25)
                mask = np.zeros((height, width), np.uint8)
                mask[y : y + random.integers(10, 25), x : x + random.integers(10, 25)] = 1
                image[mask > 0] += random.integers(60, 130, 3, dtype=np.uint8)
                rle = coco_mask.encode(np.asfortranarray(mask))
                masks.append({"size": rle["size"], "counts": rle["counts"].decode(), "kind": "object"})
            Image.fromarray(image).save(path / f"{number}.png")
            record = {"file": f"{number}.png", "width": width, "height": height, "masks": masks}
            lines.write(json.dumps(record) + "\n")
    return read_annotations(path)


@pytest.fixture(scope="module")
def network():
    return load_checkpoint(Path(model_store.__file__).parent / "checkpoints/edgesam-lite.safetensors")


@pytest.fixture(scope="module")
def figures(photos, network):
    """Of all photos, in one process."""
    return validate(network, ValidationSet.of(photos))


class PlainSegmenter:
    """The modules as they are written down, on the frame that is served."""

    name = "plain"
    resize = "letterbox"

    def __init__(self, network):
        self._network = network

    def embed(self, photo):
        with torch.no_grad():
            return self._network.image_encoder(frame(photo.image()))

    def predict(self, embedded, prompts):
        return self._outputs(embedded, prompts).best((0,))

    def predict_point(self, embedded, prompts):
        outputs = self._outputs(embedded, prompts)
        return outputs.best((0,)), outputs.by_score()

    def _outputs(self, embedded, prompts):
        encoder = self._network.prompt_encoder
        points = (
            (torch.from_numpy(prompts.points), torch.from_numpy(prompts.labels)) if prompts.points.shape[1] else None
        )
        boxes = None if prompts.boxes is None else torch.from_numpy(prompts.boxes)
        with torch.no_grad():
            code = encoder.dense_positional_code()
            logits, predicted = self._network.mask_decoder(embedded, code, *encoder(points, boxes))
        stability = stability_score(logits).numpy()
        return Predictions(logits.numpy(), predicted.numpy(), stability, score=stability)


def test_figures_are_those_of_the_evaluation_protocol(photos, network, figures):
    measurements = measured(photos, PlainSegmenter(network), Protocol(max_instances=4, boundary=False))

    def mean(start, step, choice):
        found = [one.iou for one in measurements if (one.start, one.step, one.choice) == (start, step, choice)]
        assert len(found) == 2 + 1 + 4, "four of the third photo's six"
        return sum(found) / len(found)

    expected = {f"val_{start}{f'_{step}' if step else ''}": mean(start, step, "single")
                for start in ("box", "point") for step in range(3)}  # fmt: skip
    expected |= {"val_auto": mean("point", 0, "auto"), "val_oracle": mean("point", 0, "oracle")}
    for step in (1, 2):
        obeyed = [one.is_obeyed for one in measurements if one.step == step and one.is_obeyed is not None]
        expected[f"val_obeyed_{step}"] = sum(obeyed) / len(obeyed)
    assert set(figures) == set(FIGURES) == set(expected)
    # A logit at 0 may fall on either side of it.
    assert figures == pytest.approx(expected, abs=2e-3)
    assert len({round(value, 3) for value in expected.values()}) > 5, "figures differ, or the comparison means little"


def test_the_ranking_chooses_the_first_mask_of_a_point(photos, network):
    one = ValidationSet.of(photos, every=3)

    first, third = (
        validate(network, one, ranking=Ranking(bias=bias, stability=0.0))
        for bias in ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
    )

    assert first["val_auto"] == pytest.approx(first["val_point"])
    assert third["val_auto"] != pytest.approx(first["val_auto"], abs=1e-3)
    assert max(first["val_auto"], third["val_auto"]) <= first["val_oracle"]


def test_processes_divide_the_photos_and_get_the_same_figures(photos, network, figures):
    parts = [ValidationSet.of(photos, rank=rank, world_size=2) for rank in range(2)]
    sums = {}

    def of_first(values):
        sums.update(values)
        return values

    validate(network, parts[0], sum_over_processes=of_first)
    together = validate(
        network, parts[1], sum_over_processes=lambda values: {name: values[name] + sums[name] for name in values}
    )

    assert [[photo.index for photo in part.photos] for part in parts] == [[0, 2], [1]]
    assert together == pytest.approx(figures)


def test_every_other_photo_is_measured_with_its_own_points(photos):
    whole, some = ValidationSet.of(photos), ValidationSet.of(photos, every=2)

    assert [photo.index for photo in some.photos] == [0, 2]
    assert [len(photo.objects) for photo in whole.photos] == [2, 1, 4]
    with pytest.raises(ValueError, match="from 1"):
        ValidationSet.of(photos, every=0)


def test_the_model_returns_to_its_mode(photos, network):
    network.train()
    norm = next(module for module in network.image_encoder.neck.modules() if isinstance(module, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()

    figures = validate(network, ValidationSet.of(photos, every=3))

    assert network.training
    assert torch.equal(norm.running_mean, before)
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in figures.values())
    network.eval()


def test_a_model_with_another_frame_is_refused(photos):
    with pytest.raises(ValueError, match="1024 pixels, not 128"):
        validate(build_model("edgesam-lite", frame_size=128), ValidationSet.of(photos, every=3))
