"""Segments through the plain torch modules of a checkpoint."""

import torch

from model_store.evaluation.segmenters.segmenter import Predictions, PromptBatch, predict_in_chunks
from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.frames import float_frame
from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel
from model_store.training.data.annotations import PhotoRecord
from service.mask_rules import Ranking


class TorchSegmenter:
    """The plain modules. Photos are resized in floats, as EdgeSAM's evaluation does (docs/explanation/model.md 1.2).

    Args:
        model: Network in training form.
        device: Device that computes, ``cpu`` or ``cuda``.
        name: Name in tables.
        ranking: Rule that orders the masks. A checkpoint states none; the default is that of its architecture.
    """

    def __init__(
        self, model: PromptableModel, *, device: str = "cpu", name: str = "torch", ranking: Ranking | None = None
    ) -> None:
        self.name, self.resize = name, model.architecture.resize
        self._ranking, self._masks = ranking or model.architecture.ranking, model.architecture.auto_masks
        # Folded: a third faster, and the same within 5e-6 (docs/explanation/model.md, section 2.5).
        self._model = model.deploy().to(device)

    def embed(self, photo: PhotoRecord) -> EncodedImage:
        frame = float_frame(photo.image(), self._model.image_size, self.resize)
        with torch.inference_mode():
            return self._model.image_encoder.encode(frame.to(self._device))

    def predict(self, embedded: EncodedImage, prompts: PromptBatch) -> Predictions:
        return self.outputs(embedded, prompts).only(self._masks)

    def predict_point(self, embedded: EncodedImage, prompts: PromptBatch) -> tuple[Predictions, Predictions]:
        outputs = self.outputs(embedded, prompts)
        return outputs.only(self._masks), outputs.by_score(self._masks.ambiguous)

    def outputs(self, embedded: EncodedImage, prompts: PromptBatch) -> Predictions:
        """Return all four outputs of each prompt, by index."""
        return predict_in_chunks(prompts, lambda part: self._outputs(embedded, part))

    def _outputs(self, embedded: EncodedImage, prompts: PromptBatch) -> Predictions:
        points = None
        if prompts.points.shape[1]:
            points = (
                torch.from_numpy(prompts.points).to(self._device),
                torch.from_numpy(prompts.labels).to(self._device),
            )
        boxes = None if prompts.boxes is None else torch.from_numpy(prompts.boxes).to(self._device)
        with torch.inference_mode():
            sparse, dense = self._model.prompt_encoder(points, boxes)
            code = self._model.prompt_encoder.dense_positional_code()
            logits, iou = self._model.mask_decoder(embedded.embedding, code, sparse, dense, high_res=embedded.high_res)
            stability = stability_score(logits)
        return Predictions.scored(logits.cpu().numpy(), iou.cpu().numpy(), stability.cpu().numpy(), self._ranking)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
