"""Answers of an installed model to prompts on one image, computed as the service does on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.export.onnx_session import open_graph
from service.manifest import ENCODER_OUTPUTS, HIGH_RES_NAMES, STATE_NAMES, Manifest
from service.native import best_level
from service.native.decoder import NativeDecoder
from service.sam.decoded_image import DecodedImage
from service.sam.float16 import as_float16, as_float32
from service.sam.frame import Frame
from service.sam.masks import candidates, rank
from service.sam.prompts import Prompt, decoder_inputs

Floats = NDArray[np.float32]
Decode = Callable[[Floats, NDArray[np.int64]], Sequence[Floats]]

NativeOrOnnx = Literal["native", "onnx"]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """The decoder's outputs for P prompts.

    Args:
        mask_logits: Logits, (P, 4, 256, 256).
        predicted_iou: Predicted IoUs, (P, 4).
        stability: Stability scores, (P, 4), 0..1.
        narrow_stability: Stability of output 0 at ±0.05, (P,), 0..1; ones for models that do not choose by it.
    """

    mask_logits: Floats
    predicted_iou: Floats
    stability: Floats
    narrow_stability: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The masks of one prompt, best first.

    Args:
        outputs: Indices of the decoder's outputs.
        scores: Predicted IoU of each mask.
        mask_logits: Logits of the best mask, (256, 256), not limited.
    """

    outputs: tuple[int, ...]
    scores: tuple[float, ...]
    mask_logits: Floats


def decoder_kind(manifest: Manifest) -> NativeOrOnnx:
    """Return the decoder that the service takes for a model on this machine's CPU."""
    return "native" if manifest.decoder_parameters is not None and best_level() is not None else "onnx"


def answers(
    directory: Path, manifest: Manifest, image: DecodedImage, prompts: Sequence[Prompt], masks: Sequence[Literal[1, 3]]
) -> list[Answer]:
    """Return the answers of a model to prompts on one image.

    Args:
        directory: Folder of an artifact in the served layout.
        manifest: Its manifest.
        image: The image.
        prompts: Prompts in pixels of the image, without masks.
        masks: Number of masks that each prompt asks for.
    """
    outputs = decoder_outputs(directory, manifest, image, prompts)
    pairs = zip(prompts, masks, strict=True)
    return [_answer(outputs, row, prompt, count, manifest) for row, (prompt, count) in enumerate(pairs)]


def decoder_outputs(directory: Path, manifest: Manifest, image: DecodedImage, prompts: Sequence[Prompt]) -> Outputs:
    """Return all outputs of the decoder for prompts on one image; see `answers` for the arguments."""
    frame = manifest.encoder_input(image.pixels, image.size)
    names = list(ENCODER_OUTPUTS) if manifest.has_high_res else ["tokens"]
    session = open_graph(directory / manifest.graphs["encoder"].file)
    # The caches keep embeddings as float16.
    tokens, *maps = (as_float16(each[0]) for each in session.run(names, {"image": frame[None]}))
    del session  # its memory is not needed any more
    decode = _native(directory, manifest, tokens, maps) or _onnx(directory, manifest, tokens, maps)
    points, labels = decoder_inputs(prompts, Frame(image.size, manifest.resize), pads_boxes=manifest.pads_boxes)
    mask_logits, predicted_iou, stability, *narrow = decode(points, labels)
    return Outputs(mask_logits, predicted_iou, stability, narrow[0] if narrow else np.ones(len(prompts), np.float32))


def _native(
    directory: Path, manifest: Manifest, tokens: NDArray[np.float16], maps: Sequence[NDArray[np.float16]]
) -> Decode | None:
    """Return the decoder in C for an image; None where the service does not take it."""
    if decoder_kind(manifest) != "native" or manifest.decoder_parameters is None:
        return None
    with np.load(directory / manifest.decoder_parameters.file, allow_pickle=False) as parameters:
        decoder = NativeDecoder(dict(parameters), norm_epsilon=manifest.norm_epsilon, threads=1)
    state = decoder.prepare(tokens, threads=1)
    high_res = (maps[0], maps[1]) if maps else None
    return lambda points, labels: decoder.decode(*state, points, labels, threads=1, high_res=high_res)


def _onnx(
    directory: Path, manifest: Manifest, tokens: NDArray[np.float16], maps: Sequence[NDArray[np.float16]]
) -> Decode:
    """Return the decoder graph for an image."""
    prepare = open_graph(directory / manifest.graphs["prepare"].file)
    no_mask = {"mask_logits": np.zeros((1, 256, 256), np.float32), "has_mask": np.zeros(1, np.bool_)}
    state = prepare.run(list(STATE_NAMES), {"tokens": as_float32(tokens), **no_mask})
    decoder = open_graph(directory / manifest.graphs["decoder"].file)
    names = ["mask_logits", "iou_predictions", "stability", *(["narrow_stability"] if maps else [])]
    fixed = dict(zip(STATE_NAMES, state, strict=True))
    if maps:
        fixed |= {name: as_float32(each)[None] for name, each in zip(HIGH_RES_NAMES, maps, strict=True)}

    def decode(points: Floats, labels: NDArray[np.int64]) -> Sequence[Floats]:
        found: Sequence[Floats] = decoder.run(names, {**fixed, "points": points, "labels": labels})
        return found

    return decode


def _answer(outputs: Outputs, row: int, prompt: Prompt, count: Literal[1, 3], manifest: Manifest) -> Answer:
    """Return the masks of one prompt, chosen and ordered by the rules of the service."""
    predicted_iou = outputs.predicted_iou[row].tolist()
    scores = manifest.ranking.scores(outputs.stability[row].tolist(), predicted_iou)
    narrow_stability = float(outputs.narrow_stability[row])
    chosen = rank(scores, candidates(count, prompt, manifest.mask_choice, narrow_stability))[:count]
    return Answer(chosen, tuple(predicted_iou[index] for index in chosen), outputs.mask_logits[row, chosen[0]])
