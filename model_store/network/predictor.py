"""The reference path end to end in PyTorch: a picture and a prompt in, masks of the picture's size out.

Source: docs/explanation/model.md, section 1.

Slow and plain on purpose: what the service computes is compared with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from model_store.network.frames import frame
from model_store.network.mask_decoder import MASKS, stability_score
from model_store.network.model import PromptableModel
from service.sam.transforms import FRAME_SIZE, Size, input_size, points_to_frame


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """Image embedding (1, 256, 64, 64) and the (H, W) of the picture it was made from."""

    embedding: Tensor
    original_size: Size


@dataclass(frozen=True, slots=True)
class Prediction:
    """C masks of one prompt.

    Attributes:
        logits: (C, H, W) at the size of the picture; the mask is where they are above 0.
        mask_logits: (C, 256, 256), raw, to be fed back as a mask prompt.
        iou_predictions: (C,), not bounded.
        stability: (C,) in [0, 1], of ``mask_logits``.
    """

    logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]
    stability: NDArray[np.float32]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(C, H, W)."""
        return self.logits > 0


class TorchPredictor:
    """Predicts with a model in eval mode; keeps nothing between calls.

    Args:
        model: is put into eval mode.

    Raises:
        ValueError: the model's frame is not the one the service's geometry is made for.
    """

    def __init__(self, model: PromptableModel) -> None:
        if model.prompt_encoder.frame_size != FRAME_SIZE:
            raise ValueError(f"The frame is {FRAME_SIZE} pixels, not {model.prompt_encoder.frame_size}.")
        self._model = model.eval()

    @torch.inference_mode()
    def embed(self, image: NDArray[np.uint8]) -> EmbeddedImage:
        """Embeds a picture, (H, W, 3) RGB."""
        height, width, _ = image.shape
        pixels = frame(image).to(self._device)
        return EmbeddedImage(self._model.image_encoder(pixels), (height, width))

    @torch.inference_mode()
    def predict(
        self,
        embedded: EmbeddedImage,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_logits: ArrayLike | None = None,
        num_multimask_outputs: int = MASKS,
    ) -> Prediction:
        """Cuts out what one prompt points at.

        Args:
            embedded: from ``embed``.
            points: (N, 2), (x, y) in pixels of the picture.
            labels: (N,), 1 positive, 0 negative, -1 padding, -2 ignored.
            box: (4,), x0, y0, x1, y1 in pixels of the picture.
            mask_logits: (256, 256) of an earlier prediction.
            num_multimask_outputs: 1 for mask 0, 3 for masks 1 to 3, 4 for all.

        Raises:
            ValueError: points without labels or the other way round.
        """
        if (points is None) != (labels is None):
            raise ValueError("Points and labels come together.")
        size = embedded.original_size
        point_tensors = None
        if points is not None:
            coords = points_to_frame(np.asarray(points, dtype=np.float64), size)
            point_tensors = (self._tensor(coords).unsqueeze(0), self._tensor(labels).unsqueeze(0))
        boxes = None
        if box is not None:
            corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
            boxes = self._tensor(points_to_frame(corners, size)).reshape(1, 4)
        masks = None if mask_logits is None else self._tensor(mask_logits)[None, None]

        sparse, dense = self._model.prompt_encoder(point_tensors, boxes, masks)
        low_res, iou_predictions = self._model.mask_decoder(
            embedded.embedding,
            self._model.prompt_encoder.dense_positional_code(),
            sparse,
            dense,
            num_multimask_outputs,
        )
        return Prediction(
            logits=upsample_logits(low_res, size)[0].cpu().numpy(),
            mask_logits=low_res[0].cpu().numpy(),
            iou_predictions=iou_predictions[0].cpu().numpy(),
            stability=stability_score(low_res)[0].cpu().numpy(),
        )

    @property
    def _device(self) -> torch.device:
        return self._model.mask_decoder.iou_token.weight.device

    def _tensor(self, values: ArrayLike | None) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32), device=self._device)


def upsample_logits(mask_logits: Tensor, original_size: Size, frame_size: int = FRAME_SIZE) -> Tensor:
    """Mask logits at the size of the picture, by the two bilinear steps of docs/explanation/model.md, section 1.4.

    Args:
        mask_logits: (P, C, h, w) of the decoder.
        original_size: (H, W) of the picture.
        frame_size: side of the frame, pixels.

    Returns:
        (P, C, H, W).
    """
    height, width = input_size(original_size, frame_size)
    logits = functional.interpolate(mask_logits, (frame_size, frame_size), mode="bilinear", align_corners=False)
    return functional.interpolate(logits[..., :height, :width], original_size, mode="bilinear", align_corners=False)
