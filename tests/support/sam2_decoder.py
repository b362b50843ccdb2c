"""SAM 2's decoder with the weights of the reference arrays: parameters, model, maps and prompts."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from support.sam2_weights import state_dict

from model_store.checkpoint_files.sam2_names import our_name
from model_store.export.graphs.prepare import PrepareGraph
from model_store.network.model import PromptableModel, build_model
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING

Floats = NDArray[np.float32]
State = tuple[Floats, Floats, Floats]
Arrays = Mapping[str, np.ndarray]


def decoder_parameters(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of prompt encoder and mask decoder, as the archive of a model holds them.

    Args:
        name: Name of the architecture, for instance ``edgetam``.
    """
    own = {our_name(key): array for key, array in state_dict(name).items()}
    return {
        key: array
        for key, array in own.items()
        if key.startswith(("prompt_encoder.", "mask_decoder.")) and "pred_obj_score_head" not in key
    }


def model_of(name: str) -> PromptableModel:
    """Return an EdgeTAM with the decoder of the reference arrays of an architecture, and any encoder."""
    model = build_model("edgetam")
    arrays = {our_name(key): torch.from_numpy(array) for key, array in state_dict(name).items()}
    of_decoder = {key: array for key, array in arrays.items() if not key.startswith("image_encoder.")}
    assert not model.load_state_dict(of_decoder, strict=False).unexpected_keys
    return model.eval()


def tokens_of(maps: Arrays) -> Floats:
    """Return the tokens (4096, 256) of a map ``embedding`` (1, 256, 64, 64)."""
    return np.ascontiguousarray(maps["embedding"][0].reshape(256, -1).T)


def high_res_of(maps: Arrays, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Return s1 (4096, 256) and s0 (4096, 512) of maps in the official order, (1, C, H, W).

    Args:
        maps: ``high_res_s1`` (1, 64, 128, 128) and ``high_res_s0`` (1, 32, 256, 256).
        dtype: Type of the result, float16 or float32.
    """
    s1 = maps["high_res_s1"].reshape(64, 64, 2, 64, 2).transpose(1, 3, 2, 4, 0)
    s0 = maps["high_res_s0"].reshape(32, 64, 2, 2, 64, 2, 2).transpose(1, 4, 2, 5, 0, 3, 6)
    return s1.reshape(4096, 256).astype(dtype), s0.reshape(4096, 512).astype(dtype)


def prompt_tokens(case: Arrays) -> tuple[Floats, NDArray[np.int64]]:
    """Return points (P, N, 2) and labels (P, N): corners of the box, points, and a padding point behind either.

    Args:
        case: Arrays of a decoder case of the reference.
    """
    points, boxes = case.get("points"), case.get("boxes")
    if points is None and boxes is None:
        return np.zeros((1, 0, 2), np.float32), np.zeros((1, 0), np.int64)
    count = len(boxes if points is None else points)
    coordinates, labels = [np.zeros((count, 1, 2))], [np.full((count, 1), PADDING)]
    if points is not None:
        coordinates.insert(0, points)
        labels.insert(0, case["labels"])
    if boxes is not None:
        coordinates.insert(0, boxes.reshape(count, 2, 2))
        labels.insert(0, np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (count, 1)))
    return np.concatenate(coordinates, 1).astype(np.float32), np.concatenate(labels, 1).astype(np.int64)


def prepare_masks(model: PromptableModel, tokens: Floats, masks: Floats) -> State:
    """Return the state of an image with tokens (4096, 256) under each of S mask prompts (S, 256, 256)."""
    with torch.inference_mode():
        arrays = PrepareGraph(model)(
            torch.from_numpy(tokens), torch.from_numpy(masks), torch.ones(len(masks), dtype=torch.bool)
        )
    keys, keys0, queries0 = (array.contiguous().numpy() for array in arrays)
    return keys, keys0, queries0
