"""Decoding of the reference's cases by the torch modules of SAM 2's family."""

from collections.abc import Mapping

import numpy as np
import torch
from support.sam2_reference import Case
from support.sam_family_reference import mask_prompt

from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.mask_decoder import DecodedPrompts
from model_store.network.model import PromptableModel


@torch.inference_mode()
def encode_prompts(model: PromptableModel, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sparse and the dense prompts of a case."""
    given = {key: torch.from_numpy(case.expected[key]) for key in ("points", "labels", "boxes") if key in case.expected}
    points = (given["points"], given["labels"]) if "points" in given else None
    boxes = given["boxes"].reshape(-1, 4) if "boxes" in given else None
    masks = torch.from_numpy(mask_prompt())[None, None] if case.expected["has_mask"] else None
    sparse: torch.Tensor
    dense: torch.Tensor
    sparse, dense = model.prompt_encoder(points, boxes, masks)
    return sparse, dense


@torch.inference_mode()
def decode_case(model: PromptableModel, maps: Mapping[str, np.ndarray], case: Case, count: int = 4) -> DecodedPrompts:
    """Return everything that the decoder predicts for the prompts of a case.

    Args:
        model: Model in eval mode.
        maps: Maps of an image, see `decoder_maps`.
        case: Prompts.
        count: Number of masks.
    """
    embedding, s1, s0 = (torch.from_numpy(maps[name]) for name in ("embedding", "high_res_s1", "high_res_s0"))
    code = model.prompt_encoder.dense_positional_code()
    sparse, dense = encode_prompts(model, case)
    return model.mask_decoder.decode(embedding, code, sparse, dense, count, high_res=HighResTensors(s1, s0))
