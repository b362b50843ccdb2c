"""The versions of the manifest's format: which members need which, and the values that older versions imply."""

from typing import Final, Literal

from service.mask_rules import AutoMasks, EverythingDefaults, Ranking
from service.sam.frame import Resize
from service.sam.masks import AGREEMENT

FormatVersion = Literal[2, 3, 4, 5, 6, 7]
UpsampleMode = Literal["bicubic", "bilinear"]
MaskDecoder = Literal["sam", "sam2"]

# A manifest has the lowest version that allows all of its members. So older releases read what they support.
FORMAT_VERSION: Literal[2] = 2
GRANULARITY_FORMAT_VERSION: Literal[3] = 3
RANKING_FORMAT_VERSION: Literal[4] = 4
FAMILY_FORMAT_VERSION: Literal[5] = 5
SAM2_FORMAT_VERSION: Literal[6] = 6
EVERYTHING_FORMAT_VERSION: Literal[7] = 7
# The encoder of a manifest that names none. Versions 2 and 3 allow no other.
DEFAULT_ENCODER = "RepViT-M1"
# Members that versions before 5 lack have these values: those of EdgeSAM.
DEFAULT_IMAGE_SIZE: Literal[1024] = 1024
DEFAULT_NORM_EPSILON = 1e-5
# Members that versions before 6 lack: those of SAM 1.
DEFAULT_RESIZE: Literal["letterbox"] = "letterbox"
DEFAULT_MASK_DECODER: Literal["sam"] = "sam"
EDGESAM_MASKS = AutoMasks()

REASONS: Final = (
    f"granularity needs version {GRANULARITY_FORMAT_VERSION}; an encoder other than {DEFAULT_ENCODER}, a ranking other "
    f"than by stability and no upsample_mode need version {RANKING_FORMAT_VERSION}; an image_size other than "
    f"{DEFAULT_IMAGE_SIZE}, a norm_epsilon other than {DEFAULT_NORM_EPSILON}, other auto_masks, another agreement, a "
    f"summary and a card need version {FAMILY_FORMAT_VERSION}; a resize other than {DEFAULT_RESIZE}, a mask_decoder "
    f"other than {DEFAULT_MASK_DECODER} and auto_masks with a fallback need version {SAM2_FORMAT_VERSION}; everything "
    f"needs version {EVERYTHING_FORMAT_VERSION}; without them it is version {FORMAT_VERSION}"
)
"""Members that need each version, for messages."""


def lowest_version(
    *,
    encoder: str,
    ranking: Ranking,
    upsample_mode: UpsampleMode | None,
    has_granularity: bool,
    image_size: int = DEFAULT_IMAGE_SIZE,
    norm_epsilon: float = DEFAULT_NORM_EPSILON,
    auto_masks: AutoMasks = EDGESAM_MASKS,
    summary: str = "",
    card: str = "",
    resize: Resize = DEFAULT_RESIZE,
    mask_decoder: MaskDecoder = DEFAULT_MASK_DECODER,
    everything: EverythingDefaults | None = None,
) -> FormatVersion:
    """Return the lowest version that allows these members. A manifest has to have this version.

    Args:
        encoder: Name of the image encoder.
        ranking: Rule that orders the masks of one prompt.
        upsample_mode: Interpolation as in `Manifest.upsample_mode`.
        has_granularity: Whether the encoder proposes boxes.
        image_size: Side of the encoder's input, in pixels.
        norm_epsilon: Epsilon of the layer norms in the decoder's transformer.
        auto_masks: Outputs for prompts that do not say how many masks they want.
        summary: Use of the model, one sentence.
        card: Address of the model card, or the name of its file.
        resize: Way in which an image gets into the square.
        mask_decoder: Kind of mask decoder.
        everything: Defaults of everything mode; None for those of SAM's generator.
    """
    if everything is not None:
        return EVERYTHING_FORMAT_VERSION
    if (resize, mask_decoder, auto_masks.fallback) != (DEFAULT_RESIZE, DEFAULT_MASK_DECODER, ()):
        return SAM2_FORMAT_VERSION
    family = (image_size, norm_epsilon, auto_masks, ranking.agreement, summary, card)
    if family != (DEFAULT_IMAGE_SIZE, DEFAULT_NORM_EPSILON, EDGESAM_MASKS, AGREEMENT, "", ""):
        return FAMILY_FORMAT_VERSION
    if encoder != DEFAULT_ENCODER or ranking != Ranking() or upsample_mode is None:
        return RANKING_FORMAT_VERSION
    return GRANULARITY_FORMAT_VERSION if has_granularity else FORMAT_VERSION
