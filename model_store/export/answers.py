"""The answers of an artifact's graphs to random inputs, and how far two artifacts differ. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.architectures import Architecture
from model_store.errors import ModelStoreError
from model_store.export.graph_names import decoder_outputs, encoder_outputs, map_names
from model_store.export.onnx_session import open_graph
from model_store.export.random_inputs import random_image, random_prompts
from service.manifest import STATE_NAMES
from service.sam.frame import Frame
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.transforms import FRAME_SIZE

Floats = NDArray[np.float32]


class AnswerError(ModelStoreError):
    """A graph does not run, or gives numbers that are not finite. The message names the graph."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Outputs of the three graphs for one random image and P random prompts.

    Args:
        tokens: Image embedding, (4096, 256).
        mask_logits: Logits of all masks, (P, 4, 256, 256).
        iou_predictions: Predicted IoUs, (P, 4).
        maps: High-resolution maps by name, (4096, channels); empty where the decoder reads none.
    """

    tokens: Floats
    mask_logits: Floats
    iou_predictions: Floats
    maps: Mapping[str, Floats] = field(default_factory=dict)


def answers(files: Mapping[str, Path], architecture: Architecture, *, seed: int = 0) -> Answers:
    """Run each graph, one session at a time.

    Args:
        files: Paths of the graphs by name.
        architecture: Architecture of the graphs: size of the image, kind of mask decoder.
        seed: Seed of the image and the prompts.

    Raises:
        AnswerError: A graph does not run, or an output is not finite.
    """
    kind = architecture.mask_decoder
    random = np.random.default_rng(seed)
    image, prompts = random_image(random, architecture.image_size), random_prompts(random)
    tokens, *found = _run(_open(files["encoder"]), encoder_outputs(kind), {"image": image}, files["encoder"])
    maps = dict(zip(map_names(kind), found, strict=True))  # (1, 4096, channels)
    prepare, decoder = _open(files["prepare"]), _open(files["decoder"])
    logits, iou = [], []
    for has_mask in (False, True):
        group = [prompt for prompt in prompts if (prompt.mask_logits is not None) == has_mask]
        state = _run(prepare, STATE_NAMES, prepare_inputs(tokens[0], group), files["prepare"])
        feeds = {**point_inputs(group, architecture), **dict(zip(STATE_NAMES, state, strict=True)), **maps}
        outputs = _run(decoder, decoder_outputs(kind), feeds, files["decoder"])
        logits.append(outputs[0])
        iou.append(outputs[1])
    return Answers(
        tokens[0], np.concatenate(logits), np.concatenate(iou), {name: values[0] for name, values in maps.items()}
    )


def rounding_effect(exact: Answers, rounded: Answers) -> dict[str, float]:
    """Return the effect of rounded weights: largest and mean difference of logits, and mean IoU of the masks, 0..1.

    Args:
        exact: Answers with the weights as they are; same seed as `rounded`.
        rounded: Answers with the rounded weights.
    """
    difference = np.abs(exact.mask_logits - rounded.mask_logits)
    before, after = exact.mask_logits > 0, rounded.mask_logits > 0
    both, either = (before & after).sum((2, 3)), (before | after).sum((2, 3))
    overlap = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return {
        "tokens_max": float(np.abs(exact.tokens - rounded.tokens).max()),
        **{f"{name}_max": float(np.abs(values - rounded.maps[name]).max()) for name, values in exact.maps.items()},
        "mask_logits_max": float(difference.max()),
        "mask_logits_mean": float(difference.mean(dtype=np.float64)),
        "mask_iou_mean": float(overlap.mean()),
    }


def point_inputs(group: Sequence[Prompt], architecture: Architecture) -> dict[str, NDArray[Any]]:
    """Return the inputs of the decoder graph that state the points of prompts in frame pixels."""
    frame = Frame((FRAME_SIZE, FRAME_SIZE), architecture.resize)
    points, labels = decoder_inputs(group, frame, pads_boxes=architecture.mask_decoder == "sam2")
    return {"points": points, "labels": labels}


def prepare_inputs(tokens: Floats, group: Sequence[Prompt]) -> dict[str, NDArray[Any]]:
    """Return the inputs of the prepare graph for prompts that all have a mask, or all have none."""
    masks = [prompt.mask_logits for prompt in group if prompt.mask_logits is not None]
    stacked = np.stack(masks) if masks else np.zeros((1, 256, 256), np.float32)
    return {"tokens": tokens, "mask_logits": stacked, "has_mask": np.full(len(stacked), bool(masks))}


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        return open_graph(path)
    except Exception as error:  # ONNX Runtime raises many types of its own; all mean the same here
        raise AnswerError(f"{path.name} cannot be loaded: {error}") from error


def _run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]], path: Path
) -> list[Floats]:
    try:
        found: list[Floats] = session.run(list(outputs), dict(feeds))
    except Exception as error:  # the same
        raise AnswerError(f"{path.name} does not run: {error}") from error
    for name, output in zip(outputs, found, strict=True):
        if not np.isfinite(output).all():
            raise AnswerError(f"{path.name}: its output {name} is not finite")
    return found
