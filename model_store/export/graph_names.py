"""Names of the inputs and outputs of the served graphs that depend on the kind of mask decoder."""

from model_store.architectures import MaskDecoder
from service.manifest import ENCODER_OUTPUTS, HIGH_RES_NAMES


def encoder_outputs(mask_decoder: MaskDecoder) -> list[str]:
    """Return the outputs of the encoder graph, without those of the granularity module."""
    return list(ENCODER_OUTPUTS) if mask_decoder == "sam2" else ["tokens"]


def map_names(mask_decoder: MaskDecoder) -> list[str]:
    """Return the high-resolution maps, outputs of the encoder graph and inputs of the decoder graph."""
    return list(HIGH_RES_NAMES) if mask_decoder == "sam2" else []


def decoder_outputs(mask_decoder: MaskDecoder) -> list[str]:
    """Return the outputs of the decoder graph."""
    outputs = ["mask_logits", "iou_predictions", "stability"]
    return [*outputs, "narrow_stability"] if mask_decoder == "sam2" else outputs
