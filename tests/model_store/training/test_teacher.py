"""Teachers of distillation: checkpoints of most architectures, and the side of their images."""

import pytest
import torch
from support.sam2_weights import write_sam2_checkpoint

from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.network.model import build_model
from model_store.training.teacher import TeacherError, load_teacher, teacher_image_size


def test_an_edgesam_checkpoint_may_teach(tmp_path):
    save_checkpoint(seeded_model(0), tmp_path / "teacher.pth")

    teacher = load_teacher(tmp_path / "teacher.pth")

    assert teacher.architecture.name == "edgesam"
    assert not teacher.training
    assert not any(value.requires_grad for value in teacher.parameters())


@pytest.mark.large
def test_a_sam_checkpoint_may_teach(tmp_path):
    model = seeded_model(0, "sam-vit-b")
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "teacher.pth")

    teacher = load_teacher(tmp_path / "teacher.pth")

    assert teacher.architecture.name == "sam-vit-b"
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_model_of_sam_2_s_family_is_no_teacher(tmp_path):
    path = write_sam2_checkpoint("edgetam", tmp_path / "edgetam.pt")

    with pytest.raises(TeacherError, match=r"edgetam can neither be trained nor be a teacher.*edgesam"):
        load_teacher(path)


def test_the_images_of_a_teacher_fit_its_encoder():
    with torch.device("meta"):
        lite, sam, half = (build_model(name) for name in ("edgesam-lite", "sam-vit-b", "efficientvit-sam-l0"))

    assert teacher_image_size(lite, 256) == 256
    assert teacher_image_size(half, 1024) == 512
    assert teacher_image_size(sam, 1024) == 1024
    with pytest.raises(TeacherError, match=r"sam-vit-b needs .* multiple of 1024 pixels, not 512: set --frame-size"):
        teacher_image_size(sam, 512)


def test_what_is_no_teacher_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")

    with pytest.raises(TeacherError, match="missing"):
        load_teacher(tmp_path / "other.pth")
    with pytest.raises(TeacherError, match="not a readable"):
        load_teacher(tmp_path / "broken.pth")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 100)}, tmp_path / "pruned.pth")
    with pytest.raises(TeacherError, match="100 channels"):
        load_teacher(tmp_path / "pruned.pth")
