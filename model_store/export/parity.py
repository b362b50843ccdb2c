"""Parity of exported graphs and torch on random prompts of every kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.architectures import Architecture
from model_store.export.answers import Answers, point_inputs, prepare_inputs
from model_store.export.graph_names import decoder_outputs, encoder_outputs, map_names
from model_store.export.graphs.encoder import high_res_rows
from model_store.export.onnx_session import open_graph
from model_store.export.random_inputs import random_image, random_prompts
from model_store.network.anchors import anchor_boxes, decode_boxes
from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.granularity_module import GranularityModule
from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel
from model_store.network.single_mask import narrow_stability
from service.manifest import HIGH_RES_NAMES, STATE_NAMES
from service.sam.prompts import Prompt
from service.sam.transforms import FRAME_SIZE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TorchOutputs:
    """Outputs of torch's ordinary modules for one random image, with each prompt decoded by itself.

    Attributes:
        architecture: Architecture of the model.
        image: Normalised image, (1, 3, S, S).
        embedding: Image embedding, (1, 256, 64, 64).
        prompts: P prompts, in frame pixels.
        mask_logits: Logits of all masks, (P, 4, 256, 256).
        iou_predictions: Predicted IoUs, (P, 4).
        maps: High-resolution maps as rows, (1, 4096, channels), by name; empty where the decoder reads none.
        anchors: Box in the frame and score of every anchor, (N, 5); None without the granularity module.
    """

    architecture: Architecture
    image: Floats
    embedding: Tensor
    prompts: list[Prompt]
    mask_logits: Tensor
    iou_predictions: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    anchors: Tensor | None = None

    @property
    def answers(self) -> Answers:
        """The same outputs as those of graphs."""
        tokens = self.embedding[0].flatten(1).T
        maps = {name: rows[0].numpy() for name, rows in self.maps.items()}
        return Answers(tokens.numpy(), self.mask_logits.numpy(), self.iou_predictions.numpy(), maps)


def torch_outputs(model: PromptableModel, module: GranularityModule | None = None, *, seed: int = 0) -> TorchOutputs:
    """Return the outputs with which graphs are compared.

    Args:
        model: Deployed model.
        module: Granularity module; None for none.
        seed: Seed of the image and the prompts.
    """
    random = np.random.default_rng(seed)
    image = random_image(random, model.image_size)
    with torch.inference_mode():
        encoded = model.image_encoder.encode(torch.from_numpy(image))
        anchors = None if module is None else _anchors(model, module, torch.from_numpy(image))
    prompts = random_prompts(random)
    logits, iou = zip(*(decode(model, encoded, prompt) for prompt in prompts), strict=True)
    return TorchOutputs(
        model.architecture,
        image,
        encoded.embedding,
        prompts,
        torch.cat(logits),
        torch.cat(iou),
        {} if encoded.high_res is None else dict(zip(HIGH_RES_NAMES, high_res_rows(encoded.high_res), strict=True)),
        anchors,
    )


def served_parity(reference: TorchOutputs, files: Mapping[str, Path]) -> dict[str, float]:
    """Return the largest absolute difference of the three graphs and torch, by output.

    The graphs decode all prompts together, padded with absent tokens. The decoder gets the tokens of the encoder graph,
    so errors add up as they do in the service. The stability is compared with that of the graph's own masks, since
    rounding may move a pixel over a threshold. Boxes count as shares of the frame.

    Args:
        reference: Outputs of torch.
        files: Paths of the graphs by name.
    """
    sessions = {name: open_graph(path) for name, path in files.items()}
    kind = reference.architecture.mask_decoder
    box_outputs = [] if reference.anchors is None else ["boxes", "scores"]
    names = [*encoder_outputs(kind), *box_outputs]
    encoded = dict(zip(names, sessions["encoder"].run(names, {"image": reference.image}), strict=True))
    maps = {name: encoded[name] for name in map_names(kind)}
    worst = dict.fromkeys((*encoder_outputs(kind), *decoder_outputs(kind), *box_outputs), 0.0)
    if reference.anchors is not None:
        boxes, scores = encoded["boxes"], encoded["scores"]
        best = reference.anchors[:, 4].topk(scores.shape[1]).values
        _record_difference(worst, "scores", scores[0], best)
        _record_difference(worst, "boxes", *_matched(boxes[0], scores[0], reference.anchors))
    tokens = encoded["tokens"][0]
    _record_difference(worst, "tokens", tokens, reference.embedding[0].flatten(1).T)
    for name, rows in maps.items():
        _record_difference(worst, name, rows, reference.maps[name])
    for has_mask in (False, True):
        rows = [row for row, prompt in enumerate(reference.prompts) if (prompt.mask_logits is not None) == has_mask]
        group = [reference.prompts[row] for row in rows]
        feeds = {
            **point_inputs(group, reference.architecture), **_prepare(sessions["prepare"], tokens, group), **maps
        }  # fmt: skip
        found = dict(zip(decoder_outputs(kind), sessions["decoder"].run(decoder_outputs(kind), feeds), strict=True))
        _record_difference(worst, "mask_logits", found["mask_logits"], reference.mask_logits[rows])
        _record_difference(worst, "iou_predictions", found["iou_predictions"], reference.iou_predictions[rows])
        logits = torch.from_numpy(found["mask_logits"])
        _record_difference(worst, "stability", found["stability"], stability_score(logits))
        if "narrow_stability" in found:
            _record_difference(worst, "narrow_stability", found["narrow_stability"], narrow_stability(logits[:, 0]))
    return worst


def official_parity(reference: TorchOutputs, files: Mapping[str, Path]) -> dict[str, float]:
    """Return the largest absolute difference of the official pair and torch's own modules, by output.

    Source: docs/explanation/model.md, section 5.3.

    Points carry the −1 padding point and boxes are labels 2 and 3, which is what makes the two agree.
    """
    sessions = {name: open_graph(path) for name, path in files.items()}
    (embeddings,) = sessions["encoder"].run(["image_embeddings"], {"image": reference.image})
    worst = dict.fromkeys(("image_embeddings", "scores", "masks"), 0.0)
    _record_difference(worst, "image_embeddings", embeddings, reference.embedding)
    for row, prompt in enumerate(reference.prompts):
        if prompt.mask_logits is not None:
            continue  # the official decoder takes no mask
        given = point_inputs([prompt], reference.architecture)
        feeds = {
            "image_embeddings": embeddings,
            "point_coords": given["points"],
            "point_labels": given["labels"].astype(np.float32),
        }
        scores, masks = sessions["decoder"].run(["scores", "masks"], feeds)
        _record_difference(worst, "scores", scores, stability_score(torch.from_numpy(masks)))
        _record_difference(worst, "masks", masks[0], reference.mask_logits[row])
    return worst


def decode(model: PromptableModel, encoded: EncodedImage, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Decode one prompt in frame pixels by torch's ordinary modules: logits (1, 4, 256, 256) and IoU (1, 4)."""
    points = None
    if len(prompt.labels):
        points = (torch.from_numpy(prompt.points).float()[None], torch.from_numpy(prompt.labels)[None])
    boxes = None if prompt.box is None else torch.from_numpy(prompt.box).float()[None]
    mask_logits = None if prompt.mask_logits is None else torch.from_numpy(prompt.mask_logits)[None, None]
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, mask_logits=mask_logits)
        code = model.prompt_encoder.dense_positional_code()
        result: tuple[Tensor, Tensor] = model.mask_decoder(
            encoded.embedding, code, sparse, dense, high_res=encoded.high_res
        )
    return result


def _prepare(session: onnxruntime.InferenceSession, tokens: Floats, group: Sequence[Prompt]) -> dict[str, Floats]:
    state = session.run(list(STATE_NAMES), prepare_inputs(tokens, group))
    return dict(zip(STATE_NAMES, state, strict=True))


def _anchors(model: PromptableModel, module: GranularityModule, image: Tensor) -> Tensor:
    logits, deltas = module(model.image_encoder.stages(image))
    boxes = decode_boxes(anchor_boxes(FRAME_SIZE), deltas[0], FRAME_SIZE)
    return torch.cat([boxes, logits[0].sigmoid()[:, None]], dim=1)


def _matched(boxes: Floats, scores: Floats, anchors: Tensor) -> tuple[Floats, Tensor]:
    """Return boxes (N, 4) and the anchors' boxes that are nearest in box and score, (N, 4), as shares of the frame.

    They cannot be compared by index, since rounding exchanges neighbours in the order of scores.
    """
    whole = torch.tensor([FRAME_SIZE] * 4 + [1.0])
    candidates = anchors[anchors[:, 4].topk(2 * len(scores)).indices] / whole
    found = torch.from_numpy(np.column_stack((boxes, scores))) / whole
    nearest = torch.cdist(found, candidates, p=torch.inf).argmin(1)
    return found[:, :4].numpy(), candidates[nearest, :4]


def _record_difference(worst: dict[str, float], name: str, found: Floats, expected: Tensor) -> None:
    """Record the difference if it is the largest so far; a NaN stays."""
    worst[name] = float(np.maximum(worst[name], np.abs(found - expected.numpy()).max()))
