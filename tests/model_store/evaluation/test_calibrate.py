"""`calibrate` chooses a ranking rule on photos with masks and writes it into the manifest."""

import shutil

import numpy as np
import pytest
from support.model_store_cli import invoke

from model_store.evaluation.instances import image_mask, make_instance
from model_store.evaluation.metrics import iou
from model_store.evaluation.protocol import Protocol, first_prompts
from model_store.evaluation.ranking.outputs import point_outputs
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.export.verify import verify_artifact
from model_store.training.data.annotations import read_annotations
from service.manifest import MANIFEST_NAME, load_manifest
from service.mask_rules import Ranking
from service.sam.frame import Frame


@pytest.fixture
def model(artifact, tmp_path):
    """A copy of the artifact that a test may change."""
    return shutil.copytree(artifact, tmp_path / "model")


def test_outputs_of_points_are_those_of_the_graphs_with_their_true_iou(data, artifact):
    photos = read_annotations(data)
    segmenter = OnnxSegmenter(artifact, threads=1)
    one = make_instance(photos[3].masks[0], Frame(photos[3].size))
    expected = segmenter.outputs(segmenter.embed(photos[3]), first_prompts([one], "point"))

    outputs = point_outputs(artifact, photos, Protocol(max_photos=2), threads=1)

    assert outputs.photos.tolist() == [0, 3]
    ious = [iou(image_mask(logits, Frame(photos[3].size)), one.truth) for logits in expected.mask_logits[0]]
    np.testing.assert_allclose(outputs.iou[1], ious)
    np.testing.assert_allclose(outputs.stability[1], expected.stability[0], rtol=1e-6)
    np.testing.assert_allclose(outputs.predicted_iou[1], expected.predicted_iou[0], rtol=1e-6)


def test_the_chosen_rule_is_written_and_nothing_else_changes(six_photos, model):
    """Output 3 of the random model is the most stable one for each of these objects, and as good as the best."""
    before = load_manifest(model)
    files = {path.name: path.stat().st_mtime_ns for path in model.iterdir() if path.name != MANIFEST_NAME}

    result = invoke("calibrate", model, "--data", six_photos, "--threads", 1, "--write")

    assert result.exit_code == 0, result.output
    after = verify_artifact(model)
    assert after.ranking != before.ranking
    assert after.format_version == 4
    assert after.fingerprint == before.fingerprint, "cached embeddings stay valid"
    assert after.model_copy(update={"ranking": before.ranking, "format_version": before.format_version}) == before
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir() if path.name != MANIFEST_NAME} == files
    outputs = point_outputs(model, read_annotations(six_photos), Protocol(), threads=1)
    first, ious, scores = outputs.chosen(after.ranking)
    assert first.tolist() == [3] * 6
    np.testing.assert_allclose(ious, outputs.iou.max(axis=1), atol=0.005)
    assert np.all((scores > 0) & (scores < 1))
    assert "chosen: stability" in result.output


def test_nothing_is_written_without_the_option(six_photos, model):
    before = (model / MANIFEST_NAME).read_bytes()

    result = invoke("calibrate", model, "--data", six_photos, "--threads", 1)

    assert result.exit_code == 0, result.output
    assert (model / MANIFEST_NAME).read_bytes() == before
    assert load_manifest(model).ranking == Ranking()


def test_held_out_photos_measure_all_rules_and_choose_none(data, six_photos, artifact):
    plain = invoke("calibrate", artifact, "--data", six_photos, "--threads", 1)

    checked = invoke("calibrate", artifact, "--data", six_photos, "--check", data, "--threads", 1, "--processes", 2)

    assert checked.exit_code == 0, checked.output
    assert "Cross-validated on 6 objects" in checked.output
    assert f"checked on 4 objects of {data}" in checked.output
    for rule in ("the manifest's rule", "output 0", "stability", "least squares", "the best of four"):
        assert sum(line.startswith(f"{rule} ") for line in checked.output.splitlines()) == 2
    assert checked.output.splitlines()[-1] == plain.output.splitlines()[-1]


def test_a_rule_can_be_chosen_by_its_name(six_photos, model):
    result = invoke("calibrate", model, "--data", six_photos, "--threads", 1, "--write", "--rule", "output 0")

    assert result.exit_code == 0, result.output
    assert "chosen: output 0" in result.output
    first, _, _ = point_outputs(model, read_annotations(six_photos), Protocol(), threads=1).chosen(
        load_manifest(model).ranking
    )
    assert first.tolist() == [0] * 6


def test_a_rule_of_an_unknown_name_lists_the_names(six_photos, model):
    result = invoke("calibrate", model, "--data", six_photos, "--rule", "best")

    assert result.exit_code == 2
    assert "no rule is called 'best'; there are: output 0; stability; predicted IoU" in result.output


def test_calibrating_on_few_photos_is_refused(data, artifact):
    result = invoke("calibrate", artifact, "--data", data, "--threads", 1)

    assert result.exit_code == 2
    assert "4 photos are too few" in result.output
