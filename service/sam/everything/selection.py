"""The masks of a batch of points whose quality is above the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.sam.everything.filters import exceeds
from service.sam.everything.options import Quality
from service.sam.transforms import MASK_SIZE, Size


@dataclass(frozen=True, slots=True)
class MaskSelection:
    """The masks that a decoder has to return.

    Args:
        outputs: Outputs of the decoder that become masks, rising, 0 to 3.
        quality: Number that has to exceed the threshold.
        threshold: Threshold of the quality; 0 keeps all masks.
        cells: Rows and columns of the logits that lie in the image. Logits of padding may have any value.
    """

    outputs: tuple[int, ...] = (1, 2, 3)
    quality: Quality = "predicted_iou"
    threshold: float = 0.0
    cells: Size = (MASK_SIZE, MASK_SIZE)


@dataclass(frozen=True, slots=True, eq=False)
class SelectedMasks:
    """K masks of several points, ordered by point, then output.

    Args:
        prompts: Index of each mask's point among those that were decoded, (K,).
        positions: Position of each mask's output among `MaskSelection.outputs`, (K,).
        mask_logits: Logits of each mask, K of (256, 256) float32.
        predicted_iou: IoU that the decoder predicts for each mask, (K,) float32.
        quality: Number that the filter compared, by which masks are ordered, (K,) float32.
    """

    prompts: NDArray[np.int64]
    positions: NDArray[np.int64]
    mask_logits: Sequence[NDArray[np.float32]]
    predicted_iou: NDArray[np.float32]
    quality: NDArray[np.float32]


def selected_masks(
    selection: MaskSelection,
    mask_logits: NDArray[np.float32],
    predicted_iou: NDArray[np.float32],
    stability: NDArray[np.float32],
) -> SelectedMasks:
    """Return the masks of P points that the selection keeps. Their logits are views.

    Args:
        selection: Outputs and threshold.
        mask_logits: Logits of all outputs, (P, 4, 256, 256).
        predicted_iou: Predicted IoU of all outputs, (P, 4).
        stability: Stability of all outputs at the usual offset, (P, 4).
    """
    outputs = np.array(selection.outputs)
    quality = (predicted_iou if selection.quality == "predicted_iou" else stability)[:, outputs]
    prompts, positions = np.nonzero(exceeds(quality, selection.threshold))
    used = outputs[positions]
    logits = [mask_logits[prompt, output] for prompt, output in zip(prompts, used, strict=True)]
    return SelectedMasks(prompts, positions, logits, predicted_iou[prompts, used], quality[prompts, positions])
