"""Models are measured alike through torch, through their graphs and through a running service."""

import json
import math

import numpy as np
import pytest
import torch
from support.random_model import random_model
from training.command_line import invoke

from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.evaluation.baselines import filled_box, flooded, grab_cut
from model_store.evaluation.protocol import Finding, Protocol, chosen_masks, chosen_photos, evaluate
from model_store.evaluation.report import markdown, summary, table_rows
from model_store.evaluation.segmenters import Answers, Asked, TorchSegmenter
from model_store.training.data.annotations import read_annotations
from service.sam.prompts import IGNORED


class Artist:
    """Answers with what it is told to: logits by prompt, the same at every step."""

    name = "artist"

    def __init__(self, logits):
        self._logits = logits
        self.asked = []

    def embed(self, photo):
        return photo

    def answer(self, embedded, asked, masks):
        self.asked.append(asked)
        logits = np.broadcast_to(self._logits, (len(asked), masks, 256, 256)).astype(np.float32)
        scores = np.linspace(0.5, 0.8, masks, dtype=np.float32)
        return Answers(logits, np.tile(scores, (len(asked), 1)), np.tile(scores[::-1], (len(asked), 1)))


def drawn(photo):
    """Logits that show the photo's first mask, which fills whole cells."""
    logits = np.full((256, 256), -4.0)
    x0, y0, x1, y1 = (round(value * 16 / 4) for value in photo.masks[0].box)  # 64 pixels fill the frame of 1024
    logits[y0:y1, x0:x1] = 4.0
    return logits


def test_each_object_is_asked_for_twice_and_corrected_twice(data):
    photos = read_annotations(data)[:1]
    nothing = Artist(np.full((256, 256), -4.0))

    findings = evaluate(photos, [nothing], Protocol(), baselines=False)

    singles = [(one.start, one.step) for one in findings if one.choice == "single"]
    assert singles == [("box", 0), ("box", 1), ("box", 2), ("point", 0), ("point", 1), ("point", 2)]
    assert [one.choice for one in findings[-2:]] == ["stability", "oracle"]
    assert all(one.iou == 0.0 for one in findings)
    box, corrected, *_ = nothing.asked
    np.testing.assert_allclose(box.boxes, [[160, 128, 640, 480]])
    assert box.points.shape == (1, 0, 2)
    ((x, y),) = corrected.points[0]
    assert 160 <= x < 640
    assert 128 <= y < 480
    assert corrected.labels.tolist() == [[1]]
    click = nothing.asked[3]
    assert click.boxes is None
    assert click.labels.tolist() == [[1]]


def test_a_right_answer_is_not_corrected(data):
    photos = read_annotations(data)[:1]
    right = Artist(drawn(photos[0]))

    findings = evaluate(photos, [right], Protocol(corrections=1, multimask=False), baselines=False)

    assert [one.iou for one in findings] == [1.0] * 4
    assert right.asked[1].labels.tolist() == [[IGNORED]]


def test_the_calibration_of_a_proud_model_is_its_distance_from_the_truth(data):
    photos = read_annotations(data)[:2]

    figures = summary(evaluate(photos, [Artist(np.full((256, 256), -4.0))], Protocol(), baselines=False))["artist"]

    assert figures["calibration"]["box"]["error"] == pytest.approx(0.5)
    assert figures["miou"]["point (stability of 4)"] == 0.0
    assert figures["instances"] == 2


def test_baselines_find_plain_objects(data):
    photos = read_annotations(data)[:1]
    image, (record,) = photos[0].image(), photos[0].masks
    truth = record.decode() > 0
    box = np.array(record.box, np.float32)
    loose = box + np.array([-6, -4, 6, 4], np.float32)

    np.testing.assert_array_equal(filled_box(image, box), truth)
    np.testing.assert_array_equal(grab_cut(image, loose), truth)
    np.testing.assert_array_equal(flooded(image, np.array([20.0, 20.0])), truth)
    assert grab_cut(image, np.array([0, 0, 64, 48], np.float32)).all(), "no background to learn from: the box itself"


def test_photos_and_masks_are_chosen_the_same_way_each_time(data):
    photos = read_annotations(data)
    many = type(photos[0])(photos[0].path, photos[0].size, "x", masks=photos[0].masks * 9)

    assert chosen_photos(photos, Protocol()) == [0, 1, 2, 3]
    assert chosen_photos(photos, Protocol(max_photos=2)) == [0, 3]
    assert chosen_masks(many, 0, Protocol()) == list(range(9))
    drawn_masks = chosen_masks(many, 5, Protocol(max_instances=4))
    assert len(drawn_masks) == 4
    assert drawn_masks == chosen_masks(many, 5, Protocol(max_instances=4))


def test_empty_answers_to_empty_masks_do_not_count():
    def finding(iou):
        return Finding("m", "box", 0, "single", photo=0, mask=0, area=2000, iou=iou)

    figures = summary([finding(0.5), finding(math.nan), finding(1.0)])

    assert figures["m"]["miou"] == {"box": 0.75}
    assert figures["m"]["by_size"]["box"] == {"small": None, "medium": 0.75, "large": None}
    assert markdown(*table_rows(figures)) == "| mIoU, % | box |\n| --- | --- |\n| m | 75.0 |"


def test_ignored_clicks_and_boxes_go_through_torch_as_through_the_plain_modules():
    model = seeded_model(0).eval()
    segmenter = TorchSegmenter(model)
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = np.array([[100, 100, 400, 500]], np.float32)
    points = np.array([[[300, 200], [0, 0]]], np.float32)
    labels = np.array([[1, IGNORED]])

    answers = segmenter.answer(embedding, Asked(boxes, points, labels), 4)

    with torch.no_grad():
        sparse, dense = model.prompt_encoder(
            (torch.from_numpy(points), torch.from_numpy(labels)), torch.from_numpy(boxes)
        )
        expected, iou = model.mask_decoder(embedding, model.prompt_encoder.dense_positional_code(), sparse, dense)
    np.testing.assert_allclose(answers.mask_logits, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(answers.predicted_iou, iou.numpy(), atol=1e-5)


def test_torch_graphs_and_service_agree(data, artifact, service_url, tmp_path):
    """The three ways see the same model; pictures are resized a little differently (SPEC 1.2), tokens are rounded."""
    save_checkpoint(random_model(), tmp_path / "model.pth")
    ways = ["--checkpoint", tmp_path / "model.pth", "--model", artifact, "--url", service_url]

    result = invoke("evaluate", "--data", data, "--max-photos", 1, "--out", tmp_path / "out", "--threads", 1, *ways)

    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    learned = [figure for figure in figures.values() if figure["calibration"]]
    assert len(learned) == 3
    assert set(figures) >= {"box filled", "GrabCut", "flood fill"}
    for figure in learned[1:]:
        for prompt in ("box", "point", "point (oracle of 4)"):  # corrections are drawn from what differs already
            assert figure["miou"][prompt] == pytest.approx(learned[0]["miou"][prompt], abs=0.05)
    assert (tmp_path / "out" / "table.md").read_text().startswith("| mIoU, % | box | box+1 | box+2 | point |")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == [f"sheet-{n}.jpg" for n in range(3)]


def test_a_service_that_does_not_answer_is_named(data):
    result = invoke("evaluate", "--data", data, "--url", "http://127.0.0.1:9", "--no-baselines")

    assert result.exit_code == 1
    assert "http://127.0.0.1:9 does not answer /embed" in result.output


def test_a_file_that_is_no_checkpoint_is_refused(data, tmp_path):
    torch.save({}, tmp_path / "x.pth")

    result = invoke("evaluate", "--data", data, "--checkpoint", tmp_path / "x.pth", "--no-baselines")

    assert result.exit_code == 1
    assert "not an EdgeSAM checkpoint" in result.output
