"""The reference predictor in PyTorch, end to end: from an image and a prompt to masks of the image's size.

Source: docs/explanation/model.md, section 1; docs/explanation/sam2.md.

It is slow and plain on purpose: tests compare the service with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.frames import frame
from model_store.network.mask_decoder import MASKS, DecodedPrompts, selected_masks, stability_score
from model_store.network.model import PromptableModel
from model_store.network.single_mask import single_mask
from service.sam.frame import Frame
from service.sam.logits import SAM2_LARGEST_LOGIT
from service.sam.transforms import FRAME_SIZE, input_size, points_to_frame


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """Everything that the decoder reads of one image.

    Attributes:
        encoded: Maps of the image, each with B = 1.
        frame: The image in the frame of prompts and masks.
    """

    encoded: EncodedImage
    frame: Frame

    @property
    def embedding(self) -> Tensor:
        """Image embedding, (1, 256, 64, 64)."""
        return self.encoded.embedding


@dataclass(frozen=True, slots=True)
class Prediction:
    """C masks of one prompt.

    Attributes:
        logits: Logits at the size of the image, (C, H, W); the mask is where they are above 0.
        mask_logits: Logits of the decoder, (C, 256, 256), usable as a mask prompt; limited to ±32 in SAM 2's family.
        iou_predictions: Predicted IoUs, (C,), bounded to 0..1 only in SAM 2's family.
        stability: Stability scores of the logits of the decoder, (C,), 0..1.
        object_score: Logit that there is an object at the prompt; None for SAM's family, whose decoder has none.
    """

    logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]
    stability: NDArray[np.float32]
    object_score: float | None = None

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
        resize = self._model.architecture.resize
        pixels = frame(image, self._model.image_size, resize).to(self._device)
        return EmbeddedImage(self._model.image_encoder.encode(pixels), Frame((height, width), resize))

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
            num_multimask_outputs: Number of masks: 3 for masks 1 to 3, 4 for all, 1 for the one of a prompt that means
                one object. That is mask 0, in SAM 2's family `single_mask`.

        Raises:
            ValueError: There are points without labels or labels without points, or ``num_multimask_outputs`` is
                another number.
        """
        if (points is None) != (labels is None):
            raise ValueError("Points and labels come together.")
        sparse, dense = self._prompt(embedded.frame, points, labels, box, mask_logits)
        decoded = self._model.mask_decoder.decode(
            embedded.encoded.embedding,
            self._model.prompt_encoder.dense_positional_code(),
            sparse,
            dense,
            high_res=embedded.encoded.high_res,
        )
        return self._prediction(decoded, embedded.frame, self._chosen(decoded, num_multimask_outputs))

    def _prompt(
        self,
        frame_of_image: Frame,
        points: ArrayLike | None,
        labels: ArrayLike | None,
        box: ArrayLike | None,
        mask_logits: ArrayLike | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the sparse and the dense prompt of `predict`'s arguments, with P = 1."""
        point_tensors = None
        if points is not None:
            coords = points_to_frame(points, frame_of_image)
            point_tensors = (self._tensor(coords).unsqueeze(0), self._tensor(labels).unsqueeze(0))
        boxes = None
        if box is not None:
            corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
            boxes = self._tensor(points_to_frame(corners, frame_of_image)).reshape(1, 4)
        masks = None if mask_logits is None else self._tensor(mask_logits)[None, None]
        prompt: tuple[Tensor, Tensor] = self._model.prompt_encoder(point_tensors, boxes, masks)
        return prompt

    def _chosen(self, decoded: DecodedPrompts, count: int) -> slice:
        """Return which outputs a prompt gets that wants `count` masks."""
        if count != 1:
            return selected_masks(count)
        (only,) = single_mask(decoded.mask_logits, decoded.iou_predictions, self._model.architecture.fallback).tolist()
        return slice(only, only + 1)

    def _prediction(self, decoded: DecodedPrompts, frame_of_image: Frame, chosen: slice) -> Prediction:
        logits = decoded.mask_logits[:, chosen]
        is_limited = self._model.architecture.mask_decoder == "sam2"
        handed_back = logits.clamp(-SAM2_LARGEST_LOGIT, SAM2_LARGEST_LOGIT) if is_limited else logits
        return Prediction(
            logits=upsample_logits(logits, frame_of_image)[0].cpu().numpy(),
            mask_logits=handed_back[0].cpu().numpy(),
            iou_predictions=decoded.iou_predictions[0, chosen].cpu().numpy(),
            stability=stability_score(logits)[0].cpu().numpy(),
            object_score=None if decoded.object_scores is None else decoded.object_scores.item(),
        )

    @property
    def _device(self) -> torch.device:
        return self._model.mask_decoder.iou_token.weight.device

    def _tensor(self, values: ArrayLike | None) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32), device=self._device)


def upsample_logits(mask_logits: Tensor, frame_of_image: Frame) -> Tensor:
    """Return mask logits at the size of the image.

    Those of a letterboxed image are enlarged in the two bilinear steps of docs/explanation/model.md, section 1.4, those
    of a stretched one in one step: docs/explanation/sam2.md, section "Images in, masks out".

    Args:
        mask_logits: Logits of the decoder, (P, C, h, w).
        frame_of_image: The image in the frame of prompts and masks.

    Returns:
        (P, C, H, W).
    """
    size = frame_of_image.size
    if frame_of_image.resize == "stretch":
        return functional.interpolate(mask_logits, size, mode="bilinear", align_corners=False)
    height, width = input_size(size)
    logits = functional.interpolate(mask_logits, (FRAME_SIZE, FRAME_SIZE), mode="bilinear", align_corners=False)
    return functional.interpolate(logits[..., :height, :width], size, mode="bilinear", align_corners=False)
