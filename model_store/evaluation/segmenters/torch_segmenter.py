"""Segments through the plain torch modules of a checkpoint."""

import torch

from model_store.evaluation.segmenters.segmenter import Predictions, PromptBatch, predict_in_chunks
from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel
from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.letterboxed import letterboxed
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
        self.name = name
        self._ranking, self._masks = ranking or model.architecture.ranking, model.architecture.auto_masks
        # Folded: a third faster, and the same within 5e-6 (docs/explanation/model.md, section 2.5).
        self._model = model.deploy().to(device)

    def embed(self, photo: PhotoRecord) -> torch.Tensor:
        frame = letterboxed(photo, self._model.image_size).frame.unsqueeze(0)
        with torch.inference_mode():
            embedding: torch.Tensor = self._model.image_encoder(frame.to(self._device))
        return embedding

    def predict(self, embedded: torch.Tensor, prompts: PromptBatch) -> Predictions:
        return self.outputs(embedded, prompts).best(self._masks.other)

    def predict_point(self, embedded: torch.Tensor, prompts: PromptBatch) -> tuple[Predictions, Predictions]:
        outputs = self.outputs(embedded, prompts)
        return outputs.best(self._masks.other), outputs.by_score(self._masks.ambiguous)

    def outputs(self, embedded: torch.Tensor, prompts: PromptBatch) -> Predictions:
        """Return all four outputs of each prompt, by index."""
        return predict_in_chunks(prompts, lambda part: self._outputs(embedded, part))

    def _outputs(self, embedded: torch.Tensor, prompts: PromptBatch) -> Predictions:
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
            logits, iou = self._model.mask_decoder(embedded, code, sparse, dense)
            stability = stability_score(logits)
        return Predictions.scored(logits.cpu().numpy(), iou.cpu().numpy(), stability.cpu().numpy(), self._ranking)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
