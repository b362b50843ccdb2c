"""The steps of SAM's official generator at the size of the image, on the weights of a checkpoint.

It computes what the official code computes, batch by batch: logits of a batch are enlarged to the image before they
are filtered. The steps are those of docs/explanation/everything.md.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tools.bench.models import export_official_decoder, session
from torch import Tensor

from model_store.checkpoint import load_checkpoint
from model_store.network.predictor import EmbeddedImage, TorchPredictor, upsample_logits
from service.mask_rules import EverythingDefaults
from service.sam.transforms import points_to_frame

POINTS_PER_BATCH = 64


class OfficialGenerator:
    """The generator on one image.

    Args:
        checkpoint: File of the weights.
        image: Image, (H, W, 3) uint8.
        defaults: Thresholds, outputs and grid.
        folder: Folder for the official graph of the decoder, which takes one prompt a call.
        threads: Number of threads of the graph.
    """

    def __init__(
        self, checkpoint: Path, image: NDArray[np.uint8], defaults: EverythingDefaults, *, folder: Path, threads: int
    ) -> None:
        self._model = load_checkpoint(checkpoint).deploy()
        graph = folder / "official_everything.onnx"
        export_official_decoder(self._model, graph, use_stability_score=False)
        self._graph = session(graph, threads=threads, provider="cpu")
        with torch.inference_mode():
            self._embedded: EmbeddedImage = TorchPredictor(self._model).embed(image)
        self._defaults = defaults

    def masks(self, *, uses_graph: bool) -> NDArray[np.bool_]:
        """Return the masks of the image, best first, (n, H, W) bool. Small regions are not removed.

        Args:
            uses_graph: Whether the official graph decodes, and not PyTorch.
        """
        decode = self._decode_by_graph if uses_graph else self._decode
        height, width = self._embedded.frame.size
        side = self._defaults.points_per_side
        along = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(along, along, indexing="ij")
        points = torch.stack((x * width, y * height), dim=-1).reshape(-1, 2)
        with torch.inference_mode():
            parts = [self._filtered(*decode(batch)) for batch in points.split(POINTS_PER_BATCH)]
        masks, scores, boxes = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
        kept = _suppressed(boxes, scores, self._defaults.box_nms_thresh)
        found: NDArray[np.bool_] = masks[kept].numpy()
        return found

    def _decode(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, 4, 256, 256) and predicted IoUs (P, 4) of a batch."""
        coords = torch.from_numpy(points_to_frame(points.numpy(), self._embedded.frame))[:, None]
        sparse, dense = self._model.prompt_encoder((coords, torch.ones(len(points), 1)), None, None)
        decoded = self._model.mask_decoder.decode(
            self._embedded.embedding, self._model.prompt_encoder.dense_positional_code(), sparse, dense
        )
        return decoded.mask_logits, decoded.iou_predictions

    def _decode_by_graph(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `_decode`. The official graph adds no padding point, so it gets one."""
        coords = points_to_frame(points.numpy(), self._embedded.frame).astype(np.float32)
        feeds = {"image_embeddings": self._embedded.embedding.numpy(), "point_labels": np.array([[1, -1]], np.float32)}
        answers = [
            self._graph.run(["masks", "scores"], {**feeds, "point_coords": np.array([[point, (0, 0)]], np.float32)})
            for point in coords
        ]
        logits, scores = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*answers, strict=True))
        return logits, scores

    def _filtered(self, mask_logits: Tensor, iou_predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks, predicted IoUs and boxes of a batch that pass the filters."""
        defaults, frame = self._defaults, self._embedded.frame
        outputs = list(defaults.outputs)
        logits = upsample_logits(mask_logits[:, outputs], frame).flatten(0, 1)
        scores = iou_predictions[:, outputs].flatten()
        keep = scores > defaults.pred_iou_thresh
        logits, scores = logits[keep], scores[keep]
        offset = defaults.stability_score_offset
        stability = (logits > offset).sum((1, 2)) / (logits > -offset).sum((1, 2))
        keep = stability >= defaults.stability_score_thresh
        masks = logits[keep] > 0.0
        return masks, scores[keep], _boxes(masks)


def _boxes(masks: Tensor) -> Tensor:
    """Return the first and last column and row of each mask, (n, 4) float32 as x0, y0, x1, y1."""
    ends = []
    for axis in (1, 2):
        has_pixels = masks.any(dim=axis).int()
        ends.append((has_pixels.argmax(1), has_pixels.shape[1] - 1 - has_pixels.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def _suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Return the indices of the boxes that greedy suppression keeps, best first."""
    order = torch.argsort(scores, descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        least = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (least - torch.maximum(boxes[best, :2], boxes[order, :2])).clamp(min=0).prod(1)
        order = order[~(shared / (areas[best] + areas[order] - shared) > threshold)]
    return kept
