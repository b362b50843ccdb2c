"""Segments through the ONNX graphs of an artifact, with the inputs that the service gives them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.errors import UsageError
from model_store.evaluation.segmenters.segmenter import Floats, Predictions, PromptBatch, predict_in_chunks
from model_store.export.onnx_session import open_graph
from model_store.training.data.annotations import PhotoRecord
from service.manifest import ENCODER_OUTPUTS, STATE_NAMES, load_manifest
from service.sam.embedding import HighResMaps
from service.sam.float16 import as_float32
from service.sam.number_format import EmbeddingDtype, rounded
from service.sam.prompts import ABSENT, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING
from service.sam.transforms import MASK_SIZE


class OnnxSegmenter:
    """The graphs of an artifact, run by ONNX Runtime.

    Args:
        directory: Folder of an artifact in the served layout.
        threads: Number of threads of a graph; 0 leaves it to ONNX Runtime.
        dtype: Number format to which embeddings are rounded, as the service's caches do.

    Raises:
        UsageError: The artifact has the official layout.
    """

    def __init__(self, directory: Path, *, threads: int = 0, dtype: EmbeddingDtype = "float32") -> None:
        manifest = load_manifest(directory)
        if manifest.layout != "served":
            raise UsageError(
                f"{directory} has the {manifest.layout} layout, which the service does not run; "
                "export the checkpoint with --layout served"
            )
        rounding = "" if dtype == "float32" else f", {dtype} embeddings"
        self.name, self.resize = f"graphs of {manifest.name}{rounding}", manifest.resize
        self._dtype = dtype
        self._is_sam2 = manifest.mask_decoder == "sam2"
        self._ranking, self._masks = manifest.ranking, manifest.auto_masks
        self._encoder_input = manifest.encoder_input
        self._sessions = {
            name: open_graph(directory / graph.file, threads=threads) for name, graph in manifest.graphs.items()
        }

    def embed(self, photo: PhotoRecord) -> dict[str, Any]:
        image = self._encoder_input(photo.image())[None]
        outputs = ENCODER_OUTPUTS if self._is_sam2 else ENCODER_OUTPUTS[:1]
        tokens, *maps = self._rounded(*self._sessions["encoder"].run(list(outputs), {"image": image}))
        no_mask = {"mask_logits": np.zeros((1, MASK_SIZE, MASK_SIZE), np.float32), "has_mask": np.zeros(1, np.bool_)}
        state = self._sessions["prepare"].run(list(STATE_NAMES), {"tokens": tokens, **no_mask})
        return dict(zip((*STATE_NAMES, *outputs[1:]), (*state, *maps), strict=True))

    def _rounded(self, tokens: Floats, *maps: Floats) -> list[Floats]:
        """Return the tokens (4096, 256), and the maps with their first axis, as the service's decoder gets them."""
        kept = rounded(tokens[0], HighResMaps(maps[0][0], maps[1][0]) if maps else None, self._dtype)
        others = [] if kept.high_res is None else [kept.high_res.s1, kept.high_res.s0]
        return [as_float32(kept.tokens), *(as_float32(each)[None] for each in others)]

    def predict(self, embedded: dict[str, Any], prompts: PromptBatch) -> Predictions:
        return self.outputs(embedded, prompts).only(self._masks)

    def predict_point(self, embedded: dict[str, Any], prompts: PromptBatch) -> tuple[Predictions, Predictions]:
        outputs = self.outputs(embedded, prompts)
        return outputs.only(self._masks), outputs.by_score(self._masks.ambiguous)

    def outputs(self, embedded: dict[str, Any], prompts: PromptBatch) -> Predictions:
        """Return all four outputs of each prompt, by index; the graph computes them anyway."""
        return predict_in_chunks(prompts, lambda part: self._outputs(embedded, part))

    def _outputs(self, embedded: dict[str, Any], prompts: PromptBatch) -> Predictions:
        points, labels = _decoder_inputs(prompts, pads_boxes=self._is_sam2)
        feeds = {"points": points, "labels": labels, **embedded}
        names = ["mask_logits", "iou_predictions", "stability"]
        mask_logits, predicted_iou, stability = self._sessions["decoder"].run(names, feeds)
        return Predictions.scored(mask_logits, predicted_iou, stability, self._ranking)


def _decoder_inputs(prompts: PromptBatch, *, pads_boxes: bool) -> tuple[Floats, NDArray[np.int64]]:
    """Return points (P, N, 2) and labels (P, N) of the decoder graph: points, then box corners, then one padding point.

    Args:
        prompts: P prompts of one form.
        pads_boxes: Whether the padding point also follows boxes, and not only points without a box.
    """
    count = len(prompts)
    points, labels = [prompts.points], [prompts.labels]
    if prompts.boxes is not None:
        points.append(prompts.boxes.reshape(count, 2, 2))
        labels.append(np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (count, 1)))
    if prompts.boxes is None or pads_boxes:
        points.append(np.zeros((count, 1, 2), np.float32))
        labels.append(np.full((count, 1), PADDING))
    joined = np.concatenate(labels, axis=1).astype(np.int64)
    assert not (joined == ABSENT).any()
    return np.concatenate(points, axis=1).astype(np.float32), joined
