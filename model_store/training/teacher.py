"""Teachers of distillation: checkpoints of the architectures with SAM's mask decoder.

All have SAM's prompt encoder and mask decoder (docs/explanation/model.md, section 0). They differ in the image encoder,
and in the side of the images that it takes.
"""

from pathlib import Path

from model_store.checkpoint import CheckpointError, load_checkpoint
from model_store.errors import ModelStoreError
from model_store.network.model import PromptableModel
from model_store.training.trainable import training_problem
from service.sam.transforms import FRAME_SIZE


class TeacherError(ModelStoreError):
    """The file is no teacher, or not for these frames; the message states the difference."""


def load_teacher(path: Path) -> PromptableModel:
    """Return the teacher of a checkpoint, frozen, in eval mode on the CPU.

    Args:
        path: Checkpoint of an architecture with SAM's mask decoder, for instance `sam_vit_h_4b8939.pth`.

    Raises:
        OSError: The file cannot be read.
        TeacherError: The file is no checkpoint, its keys or shapes do not fit, or distillation does not know its
            architecture.
    """
    try:
        teacher = load_checkpoint(path)
    except CheckpointError as error:
        raise TeacherError(str(error)) from error
    if problem := training_problem(teacher.architecture):
        raise TeacherError(f"{path}: {problem}")
    return teacher.requires_grad_(False)


def teacher_image_size(teacher: PromptableModel, frame_size: int) -> int:
    """Return the side of the images that the teacher's encoder gets for a frame, in pixels.

    Some encoders take images of half the frame's side.

    Args:
        teacher: Model whose encoder embeds the images.
        frame_size: Side of the frame of prompts and masks, in pixels.

    Raises:
        TeacherError: The encoder has no images of this side.
    """
    image_size = frame_size * teacher.architecture.image_size // FRAME_SIZE
    multiple = teacher.image_encoder.frame_multiple
    if image_size % multiple:
        smallest = multiple * FRAME_SIZE // teacher.architecture.image_size
        raise TeacherError(
            f"{teacher.architecture.name} needs a frame whose side is a multiple of {smallest} pixels, "
            f"not {frame_size}: set --frame-size."
        )
    return image_size
