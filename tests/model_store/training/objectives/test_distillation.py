"""Losses, corrective clicks and whole steps of distillation give EdgeSAM's own numbers.

Source: docs/explanation/model.md, section 11.
"""

import numpy as np
import pytest
import torch
from support.official_reference import COMMITTED, open_reference, reference_image

from model_store.network.frames import frame
from model_store.training.objectives.correction_clicks import correction, wrong_cells
from model_store.training.objectives.distillation import TeacherLoop, prompt_passes
from model_store.training.objectives.distillation_losses import bce, dice, feature_mse

RELATIVE = 1e-5  # of losses
ABSOLUTE = 5e-5  # of logits


@pytest.fixture(scope="module")
def distill():
    with np.load(COMMITTED / "distill.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def trace():
    with np.load(COMMITTED / "distill_trace.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def student_and_teacher(model):
    """The network, and embeddings of two images for student and teacher, made as the fixture's were."""
    with torch.inference_mode():
        computed = model.image_encoder(frame(reference_image())).numpy()
    embedding = open_reference("committed").embedding(computed)
    upright = torch.cat([embedding, embedding.flip(2)])
    return model, upright, 0.75 * upright + 0.25 * upright.flip(3)


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name]) for name in names]


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_mask_losses_agree_with_and_without_validity(name, distill):
    loss = {"bce": bce, "dice": dice}[name]
    student, teacher, valid = tensors(distill, "student_logits", "teacher_logits", "valid")
    target = (teacher > 0).float()

    with_valid, without = loss(student, target, valid).mean(), loss(student, target).mean()

    assert float(with_valid) == pytest.approx(float(distill[f"{name}_valid"]), rel=RELATIVE)
    assert float(without) == pytest.approx(float(distill[f"{name}_none"]), rel=RELATIVE)


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_soft_targets_agree(name, distill):
    loss = {"bce": bce, "dice": dice}[name]
    student, teacher, valid = tensors(distill, "student_logits", "teacher_logits", "valid")

    found = {with_valid: float(loss(student, teacher.sigmoid(), valid if with_valid else None).mean())
             for with_valid in (True, False)}  # fmt: skip

    assert pytest.approx(float(distill[f"{name}_soft_targets"]), rel=RELATIVE) in found.values()


def test_the_feature_loss_agrees_in_both_divisions(distill):
    student, teacher = (tensor.float() for tensor in tensors(distill, "pixel_feat_s_f16", "pixel_feat_t_f16"))
    counts = distill["pixel_valid_counts"][:, 0]
    valid = torch.zeros(2, 1, 64, 64)
    valid[0, :, : counts[0] // 64] = 1.0  # 43 whole rows
    valid[1, ..., : counts[1] // 64] = 1.0  # 48 whole columns

    crossed = feature_mse(student, teacher, valid, division="crossed")
    each = feature_mse(student, teacher, valid)

    assert float(crossed) == pytest.approx(float(distill["pixel_loss"]), rel=RELATIVE)
    own = np.diagonal(distill["pixel_matrix_BxB"]).mean()
    assert float(each) == pytest.approx(float(own), rel=RELATIVE)


def test_corrections_are_drawn_from_the_official_candidates(distill):
    student, teacher, valid = tensors(distill, "sample_student", "sample_teacher", "valid")

    too_much, lacking = wrong_cells(student[:, 0], teacher[:, 0], valid[:, 0])
    points, labels = correction(student[:, 0], teacher[:, 0], valid[:, 0], torch.Generator().manual_seed(0))

    candidates = lacking.int() - too_much.int()
    np.testing.assert_array_equal(candidates.numpy(), distill["sample_candidates"])
    np.testing.assert_array_equal((labels == -2).numpy(), distill["sample_labels_seed3"] == -2)
    for row in range(len(labels)):
        x, y = (points[row, 0] / 4).long().tolist()
        assert labels[row, 0] == -2 or candidates[row, y, x] == (1 if labels[row, 0] == 1 else -1)


@pytest.mark.parametrize("start", ["box", "point"])
def test_a_step_with_a_teacher_agrees_pass_by_pass(start, trace, student_and_teacher):
    model, student, teacher = student_and_teacher
    image_index = torch.arange(2).repeat_interleave(torch.from_numpy(trace["num_prompts"]))
    (prompts,) = tensors(trace, "boxes") if start == "box" else [torch.from_numpy(trace["points"])[:, 0]]
    valid = torch.zeros(2, 1, 1024, 1024)
    for row, (height, width) in enumerate(trace["sizes_hw"].tolist()):
        valid[row, :, :height, :width] = 1.0
    counts = []

    def draw(wrong, _generator):
        counts.append(wrong.flatten(1).sum(1))
        return torch.from_numpy(trace[f"{start}/sampled_256"])[:, 0]

    with torch.no_grad():
        passes = prompt_passes(
            model, model, (student, teacher), start=start, image_index=image_index, prompts=prompts, valid=valid,
            loop=TeacherLoop(), draw=draw,
        )  # fmt: skip

    assert len(passes) == int(trace["iters"])
    np.testing.assert_array_equal(counts[0].numpy(), trace[f"{start}/fp_fn_counts"].sum(1))
    for index, one in enumerate(passes):
        expected = {
            key.split("_", 1)[1]: value for key, value in trace.items() if key.startswith(f"{start}/iter{index}")
        }
        for key, value in {"student_slice": one.student, "teacher_slice": one.teacher}.items():
            np.testing.assert_allclose(value[..., ::16, ::16].numpy(), expected[key], rtol=0, atol=ABSOLUTE)
        np.testing.assert_allclose(one.teacher_iou.numpy(), expected["teacher_iou"], rtol=0, atol=1e-5)
        assert float(one.bce) == pytest.approx(float(expected["bce"]), rel=RELATIVE)
        assert float(one.dice) == pytest.approx(float(expected["dice"]), rel=RELATIVE)
        if index == 1:
            np.testing.assert_array_equal(one.points.numpy(), expected["points"])
            np.testing.assert_array_equal(one.labels.numpy(), expected["labels"])
