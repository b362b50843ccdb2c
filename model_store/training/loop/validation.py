"""A quick look at quality while a run goes on: the refinement loop of SPEC 8.1 on logits, at the run's frame size.

The figures of record come from `model_store.evaluation`, at 1024 and at the pictures' own resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model_store.network.model import PromptableModel
from model_store.training.data.augmentation import PLAIN, make_batch
from model_store.training.data.shelf import Shelf, open_shelf
from model_store.training.objectives.annotated import mask_boxes
from model_store.training.objectives.clicks import cell_points, correction, middle_cells
from model_store.training.objectives.losses import mask_iou
from model_store.training.objectives.prompt_sets import decode, prompt_set


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Photos and how much of them is looked at.

    Args:
        shelf: photos and masks that no step sees.
        photos: how many of them.
        masks: most masks a photo, the same ones each time.
        passes: the first prompt and its corrections.
    """

    shelf: Shelf
    photos: int = 48
    masks: int = 4
    passes: int = 3


def looking(packed: Path, device: torch.device) -> Callable[[nn.Module, int], dict[str, float]]:
    """A look at packed photos, for a run."""
    validation = ValidationSet(open_shelf(packed).to(device))

    def look(model: nn.Module, frame_size: int) -> dict[str, float]:
        assert isinstance(model, PromptableModel)
        return validate(model, validation, frame_size)

    return look


@torch.no_grad()
def validate(model: PromptableModel, validation: ValidationSet, frame_size: int, *, batch: int = 4) -> dict[str, float]:
    """Mean IoU of output 0 by first prompt and number of corrections: `val_box_0`, `val_point_2`, …

    Args:
        model: in eval mode.
        validation: on what.
        frame_size: pixels; the model's prompt encoder is set to it.
        batch: pictures at a time.
    """
    model.prompt_encoder.frame_size = frame_size
    device = validation.shelf.photos.device
    found: dict[str, list[Tensor]] = {}
    count = min(validation.photos, len(validation.shelf))
    photos = torch.linspace(0, len(validation.shelf) - 1, count).long()
    for number, chosen in enumerate(torch.split(photos, batch)):
        generator = torch.Generator().manual_seed(number)
        pictures = make_batch(
            validation.shelf, chosen, frame_size, PLAIN, max_masks=validation.masks, generator=generator
        )
        on_device = torch.Generator(device).manual_seed(number)
        where = torch.nonzero(pictures.weights > 0)
        rows, columns = where[:, 0], where[:, 1]
        truth = pictures.masks[rows, columns]  # (P, s, s)
        if not len(truth):
            continue
        valid = pictures.valid[rows]
        embedding = model.image_encoder(pictures.frames)
        covered = truth > 0.5
        starts = {
            "box": prompt_set(rows, mask_boxes(truth), torch.zeros(0, 2, device=device)),
            "point": prompt_set(rows, torch.zeros(0, 4, device=device), cell_points(middle_cells(covered))),
        }
        for name, start in starts.items():
            prompts = start
            for index in range(validation.passes):
                logits, _ = decode(model, embedding, prompts, masks=1)
                found.setdefault(f"val_{name}_{index}", []).append(mask_iou(logits[:, 0], truth, valid[:, 0]))
                prompts = prompts.with_correction(*correction(logits[:, 0], covered, valid[:, 0], on_device))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}
