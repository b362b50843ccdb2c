"""The reference predictor in PyTorch, end to end: from an image and a prompt to masks of the image's size.

Source: docs/explanation/model.md, section 1.

It is slow and plain on purpose: tests compare the service with it.
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
from service.sam.frame import Frame
from service.sam.transforms import FRAME_SIZE, Size, input_size, points_to_frame


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """The embedding of one image.

    Attributes:
        embedding: Image embedding, (1, 256, 64, 64).
        original_size: Height and width of the image, in pixels.
    """

    embedding: Tensor
    original_size: Size


@dataclass(frozen=True, slots=True)
class Prediction:
    """C masks of one prompt.

    Attributes:
        logits: Logits at the size of the image, (C, H, W); the mask is where they are above 0.
        mask_logits: Logits of the decoder, (C, 256, 256), usable as a mask prompt.
        iou_predictions: Predicted IoUs, (C,), not bounded.
        stability: Stability scores of ``mask_logits``, (C,), 0..1.
    """

    logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]
    stability: NDArray[np.float32]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The masks, (C, H, W)."""
        return self.logits > 0


class TorchPredictor:
    """Predicts masks with a model; nothing is kept between calls.

    Args:
        model: Model, which is put into eval mode.

    Raises:
        ValueError: The model's frame is not 1024 pixels, for which the service's geometry is made.
    """

    def __init__(self, model: PromptableModel) -> None:
        if model.prompt_encoder.frame_size != FRAME_SIZE:
            raise ValueError(f"The frame is {FRAME_SIZE} pixels, not {model.prompt_encoder.frame_size}.")
        self._model = model.eval()

    @torch.inference_mode()
    def embed(self, image: NDArray[np.uint8]) -> EmbeddedImage:
        """Embed an image, (H, W, 3) RGB."""
        height, width, _ = image.shape
        pixels = frame(image, self._model.image_size).to(self._device)
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
        """Predict the masks of one prompt.

        Args:
            embedded: Result of ``embed``.
            points: Points as (x, y) in pixels of the image, (N, 2).
            labels: Labels of the points, (N,): 1 positive, 0 negative, -1 padding, -2 ignored.
            box: Box as x0, y0, x1, y1 in pixels of the image, (4,).
            mask_logits: Mask logits of an earlier prediction, (256, 256).
            num_multimask_outputs: Number of masks: 1 for mask 0, 3 for masks 1 to 3, 4 for all.

        Raises:
            ValueError: There are points without labels or labels without points.
        """
        if (points is None) != (labels is None):
            raise ValueError("Points and labels come together.")
        size = embedded.original_size
        frame_of_image = Frame(size)
        point_tensors = None
        if points is not None:
            coords = points_to_frame(points, frame_of_image)
            point_tensors = (self._tensor(coords).unsqueeze(0), self._tensor(labels).unsqueeze(0))
        boxes = None
        if box is not None:
            corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
            boxes = self._tensor(points_to_frame(corners, frame_of_image)).reshape(1, 4)
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
    """Return mask logits at the size of the image, by the two bilinear steps of docs/explanation/model.md, section 1.4.

    Args:
        mask_logits: Logits of the decoder, (P, C, h, w).
        original_size: Height and width of the image, in pixels.
        frame_size: Side of the frame, in pixels.

    Returns:
        (P, C, H, W).
    """
    height, width = input_size(original_size, frame_size)
    logits = functional.interpolate(mask_logits, (frame_size, frame_size), mode="bilinear", align_corners=False)
    return functional.interpolate(logits[..., :height, :width], original_size, mode="bilinear", align_corners=False)
