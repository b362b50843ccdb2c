"""Both stages of distillation run from the command line and bring the student nearer to its teacher."""

import numpy as np
import pytest
import torch
from support.model_store_cli import invoke

from model_store.checkpoint import load_checkpoint, save_checkpoint, seeded_model
from model_store.training.data.annotations import read_annotations
from model_store.training.data.letterboxed import LetterboxedPhotos, collate, endless_batches, letterboxed
from model_store.training.data.teacher_features import FeatureCache, FeatureCacheError, fill
from model_store.training.loop.train_log import read_rows
from model_store.training.objectives.distillation import valid_cells
from model_store.training.objectives.distillation_losses import feature_mse

FRAME = 64
COMMON = ["--frame-size", FRAME, "--threads", 1, "--workers", 0, "--batch", 2]


@pytest.fixture
def teacher(tmp_path):
    save_checkpoint(seeded_model(7), tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


@pytest.fixture
def features(data, teacher, tmp_path):
    result = invoke(
        "features",
        "--data",
        data,
        "--teacher",
        teacher,
        "--out",
        tmp_path / "features",
        "--frame-size",
        FRAME,
    )
    assert result.exit_code == 0, result.output
    return tmp_path / "features"


def distill(stage, data, teacher, features, out, *more):
    arguments = ["--data", data, "--teacher", teacher, "--teacher-features", features, "--out", out, *COMMON, *more]
    result = invoke("distill", "--stage", stage, *arguments)
    assert result.exit_code == 0, result.output
    return [float(row["loss"]) for row in read_rows(out / "log.csv") if row["loss"]]


def test_cached_features_are_the_teacher_s(data, teacher, features):
    records = read_annotations(data)
    names = [str(record.path) for record in records]

    cache = FeatureCache(features, names, teacher="teacher.pth", frame_size=FRAME)

    with torch.no_grad():
        expected = load_checkpoint(teacher).image_encoder(letterboxed(records[2], FRAME).frame[None])
    torch.testing.assert_close(cache.get([2]), expected, atol=2e-3, rtol=1e-3)  # float16
    assert cache.missing() == []
    with pytest.raises(FeatureCacheError, match="other photos"):
        FeatureCache(features, names[:1], teacher="teacher.pth", frame_size=FRAME)


def test_an_interrupted_pass_is_resumed(data, tmp_path):
    records = read_annotations(data)
    names = [str(record.path) for record in records]
    cache = FeatureCache(tmp_path / "features", names, teacher="t", frame_size=FRAME)
    cache.put(0, torch.full((256, 4, 4), 3.0))
    with pytest.raises(FeatureCacheError, match="not complete"):
        cache.get([0, 1])

    fill(cache, records, seeded_model(0).image_encoder, image_size=FRAME, device=torch.device("cpu"))

    assert cache.missing() == []
    assert float(cache.get([0]).mean()) == 3.0, "what was there is not computed again"


@pytest.mark.parametrize("division", ["each", "crossed"])
def test_stage_one_brings_features_nearer(division, data, teacher, features, tmp_path):
    more = ["--steps", 12, "--learning-rate", 1e-3, "--warm-up", 0, "--division", division]

    distill("encoder", data, teacher, features, tmp_path / "one", *more)

    records = read_annotations(data)
    cache = FeatureCache(features, [str(record.path) for record in records], teacher="teacher.pth", frame_size=FRAME)
    batch = collate([letterboxed(record, FRAME) for record in records])
    student = load_checkpoint(tmp_path / "one" / "model.safetensors")

    def error(encoder):
        with torch.no_grad():
            return float(feature_mse(encoder(batch.frames), cache.get(range(4)), valid_cells(batch.valid)))

    from model_store.training.initial import initial_model

    fresh = initial_model(0)
    assert error(student.image_encoder) < 0.9 * error(fresh.eval().image_encoder)
    for name in ("prompt_encoder", "mask_decoder"):
        for key, value in getattr(fresh, name).state_dict().items():
            assert torch.equal(value, getattr(student, name).state_dict()[key]), "only the encoder learns"


def test_stage_two_begins_with_the_teacher_s_decoder_and_leaves_its_score_alone(data, teacher, features, tmp_path):
    losses = distill("prompts", data, teacher, features, tmp_path / "two", "--steps", 2, "--max-prompts", 2)

    student, master = load_checkpoint(tmp_path / "two" / "model.safetensors"), load_checkpoint(teacher)
    frozen = [key for key in student.state_dict() if key.startswith(("prompt_encoder", "mask_decoder.iou_prediction"))]
    moved = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    assert losses[0] > 0
    assert all(torch.equal(student.state_dict()[key], master.state_dict()[key]) for key in frozen)
    assert not torch.equal(student.state_dict()[moved], master.state_dict()[moved])


def test_stage_two_requires_features(data, teacher, tmp_path):
    arguments = ["--data", data, "--teacher", teacher, "--teacher-features", tmp_path / "none", "--out", tmp_path / "x"]

    result = invoke("distill", "--stage", "prompts", *arguments, *COMMON)

    assert result.exit_code == 1
    assert "run 'features' first" in result.output


def test_a_letterboxed_photo_has_its_prompts_in_the_frame(data):
    record = read_annotations(data)[1]

    photo = letterboxed(record, 128, record.masks, index=9)

    assert photo.frame.shape == (3, 128, 128)
    assert photo.input_size == (96, 128)
    assert not bool(photo.frame[:, 96:].any()), "padded after normalising"
    assert photo.boxes.tolist() == [[20.0, 18.0, 80.0, 60.0]]
    ((x, y),) = photo.points.tolist()
    assert 20 <= x < 80
    assert 18 <= y < 60


def test_batches_are_read_ahead_by_processes_and_repeat_with_the_seed(data):
    records = read_annotations(data)

    def first_places(workers, rank=0):
        batches = endless_batches(
            LetterboxedPhotos(records, FRAME, max_prompts=1, seed=0), 3, workers=workers, seed=4, rank=rank
        )
        return [next(batches).indices for _ in range(2)]

    assert first_places(workers=2) == first_places(workers=0)
    assert first_places(workers=0) != first_places(workers=0, rank=1)


def test_a_batch_knows_the_photo_of_each_prompt(data):
    records = read_annotations(data)
    two = letterboxed(records[0], FRAME, [records[0].masks[0]] * 2)
    one = letterboxed(records[1], FRAME, records[1].masks)

    batch = collate([two, one])

    assert batch.image_index.tolist() == [0, 0, 1]
    np.testing.assert_allclose(batch.valid.mean((1, 2, 3)).numpy(), [0.75, 0.75])
