"""Compares exported graphs with torch on random prompts of every kind, and measures what rounding changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.edge_sam.mask_decoder import stability_score
from model_store.edge_sam.model import EdgeSAM
from service.sam.prompts import Prompt, decoder_inputs

Arrays = Sequence[NDArray[np.float32]]

FRAME = (1024, 1024)
STATE_NAMES = ("keys", "keys0", "values0", "queries0")


def served_parity(model: EdgeSAM, files: Mapping[str, Path], *, seed: int = 0, pictures: int = 2) -> dict[str, float]:
    """Largest absolute difference of the three graphs and torch, by output.

    Prompts go one by one through torch's ordinary modules and together, padded with absent tokens, through the
    graphs; the decoder is fed with the graphs' own tokens, so errors add up as they do in service.
    """
    sessions = {name: _session(path) for name, path in files.items()}
    random = np.random.default_rng(seed)
    worst = dict.fromkeys(("tokens", "mask_logits", "iou_predictions"), 0.0)
    for _ in range(pictures):
        image = _picture(random)
        embedding = _embed(model, image)
        (tokens,) = sessions["encoder"].run(None, {"image": image})
        _raise(worst, "tokens", tokens[0], embedding[0].flatten(1).T.numpy())
        prompts = random_prompts(random)
        for group in (
            [prompt for prompt in prompts if prompt.mask_logits is None],
            [prompt for prompt in prompts if prompt.mask_logits is not None],
        ):
            state = _prepare(sessions["prepare"], tokens[0], group)
            points, labels = decoder_inputs(group, FRAME)
            logits, iou, _ = sessions["decoder"].run(
                None, {"points": points, "labels": labels, **dict(zip(STATE_NAMES, state, strict=True))}
            )
            for row, prompt in enumerate(group):
                expected_logits, expected_iou = decode(model, embedding, prompt)
                _raise(worst, "mask_logits", logits[row], expected_logits[0].numpy())
                _raise(worst, "iou_predictions", iou[row], expected_iou[0].numpy())
    return worst


def official_parity(model: EdgeSAM, files: Mapping[str, Path], *, seed: int = 0) -> dict[str, float]:
    """Largest absolute difference of the official pair and torch's own modules, by output (SPEC 5).

    Points carry the −1 padding point and boxes are labels 2 and 3, which is what makes the two agree.
    """
    sessions = {name: _session(path) for name, path in files.items()}
    random = np.random.default_rng(seed)
    image = _picture(random)
    embedding = _embed(model, image)
    (exported,) = sessions["encoder"].run(None, {"image": image})
    worst = dict.fromkeys(("image_embeddings", "scores", "masks"), 0.0)
    _raise(worst, "image_embeddings", exported, embedding.numpy())
    for prompt in random_prompts(random):
        if prompt.mask_logits is not None:
            continue  # the official decoder takes no mask
        points, labels = decoder_inputs([prompt], FRAME)
        scores, masks = sessions["decoder"].run(
            None,
            {"image_embeddings": exported, "point_coords": points, "point_labels": labels.astype(np.float32)},
        )
        expected, _ = decode(model, embedding, prompt)
        _raise(worst, "scores", scores, stability_score(torch.from_numpy(masks)).numpy())
        _raise(worst, "masks", masks, expected.numpy())
    return worst


def rounding_effect(plain: EdgeSAM, rounded: EdgeSAM, *, seed: int = 0) -> dict[str, float]:
    """What rounded weights change: largest and mean difference of logits, and the IoU of the masks (0..1)."""
    random = np.random.default_rng(seed)
    image = _picture(random)
    embeddings = _embed(plain, image), _embed(rounded, image)
    differences, agreements = [], []
    for prompt in random_prompts(random):
        before, _ = decode(plain, embeddings[0], prompt)
        after, _ = decode(rounded, embeddings[1], prompt)
        differences.append((before - after).abs())
        both, either = (before > 0) & (after > 0), (before > 0) | (after > 0)
        overlap = both.sum((2, 3)) / either.sum((2, 3)).clamp(min=1)
        agreements.append(torch.where(either.any(3).any(2), overlap, 1.0))
    every = torch.cat(differences)
    return {
        "tokens_max": float((embeddings[0] - embeddings[1]).abs().max()),
        "mask_logits_max": float(every.max()),
        "mask_logits_mean": float(every.mean()),
        "mask_iou_mean": float(torch.cat(agreements).mean()),
    }


def random_prompts(random: np.random.Generator) -> list[Prompt]:
    """One prompt of every kind, in frame pixels: points of both labels, box, mask, and their mixtures."""

    def prompt(points: int, *, box: bool = False, mask: bool = False) -> Prompt:
        corners = np.sort(random.uniform(0, 1024, (2, 2)), axis=0).reshape(4)
        labels = random.integers(0, 2, points)
        labels[:1] = 1
        return Prompt(
            points=random.uniform(0, 1024, (points, 2)),
            labels=labels.astype(np.int64),
            box=corners if box else None,
            mask_logits=random.normal(0, 4, (256, 256)).astype(np.float32) if mask else None,
        )

    plain = [prompt(1), prompt(2), prompt(5), prompt(0, box=True), prompt(1, box=True), prompt(3, box=True)]
    masked = [prompt(0, mask=True), prompt(1, mask=True), prompt(0, box=True, mask=True), prompt(2, mask=True)]
    return [*plain, *masked]


def decode(model: EdgeSAM, embedding: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """One prompt in frame pixels through torch's ordinary modules → logits (1, 4, 256, 256), IoU (1, 4)."""
    points = None
    if len(prompt.labels):
        points = (torch.from_numpy(prompt.points).float()[None], torch.from_numpy(prompt.labels)[None])
    boxes = None if prompt.box is None else torch.from_numpy(prompt.box).float()[None]
    mask_logits = None if prompt.mask_logits is None else torch.from_numpy(prompt.mask_logits)[None, None]
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, mask_logits=mask_logits)
        code = model.prompt_encoder.dense_positional_code()
        result: tuple[Tensor, Tensor] = model.mask_decoder(embedding, code, sparse, dense, num_multimask_outputs=4)
    return result


def _prepare(session: onnxruntime.InferenceSession, tokens: NDArray[np.float32], group: Sequence[Prompt]) -> Arrays:
    masks = [prompt.mask_logits for prompt in group if prompt.mask_logits is not None]
    stacked = np.stack(masks) if masks else np.zeros((1, 256, 256), np.float32)
    feeds = {"tokens": tokens, "mask_logits": stacked, "has_mask": np.full(len(stacked), bool(masks))}
    state: Arrays = session.run(list(STATE_NAMES), feeds)
    return state


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _picture(random: np.random.Generator) -> NDArray[np.float32]:
    """A normalised frame (1, 3, 1024, 1024) with structure at several scales, its lower part padding."""
    image = np.zeros((3, 1024, 1024), np.float32)
    for cell in (256, 64, 16, 4):
        coarse = random.normal(0, 0.6, (3, 1024 // cell, 1024 // cell)).astype(np.float32)
        image += np.kron(coarse, np.ones((1, cell, cell), np.float32))
    image[:, 768:] = 0.0
    return image[None]


def _embed(model: EdgeSAM, image: NDArray[np.float32]) -> Tensor:
    with torch.inference_mode():
        embedding: Tensor = model.image_encoder(torch.from_numpy(image))
    return embedding


def _raise(worst: dict[str, float], name: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Keep the larger difference; a NaN stays."""
    worst[name] = float(np.maximum(worst[name], np.abs(found - expected).max()))
