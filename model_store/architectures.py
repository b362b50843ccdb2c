"""The architectures of the SAM family as data: names, sizes, epsilons, rules for masks, licences.

Each is an image encoder in front of SAM's prompt encoder and the mask decoder of SAM or SAM 2. The networks are in
`model_store.network.architectures`, which needs torch; nothing here does.

Numbers: docs/explanation/sam-family.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from service.sam.frame import Resize

if TYPE_CHECKING:
    from service.mask_rules import AutoMasks, Ranking

# Mean and standard deviation of pixel values, 0..255, RGB: the same for all architectures. Checkpoints lack them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

ImageSize = Literal[512, 1024]
Score = Literal["stability", "predicted_iou"]
MaskDecoder = Literal["sam", "sam2"]

_ALL = (0, 1, 2, 3)
_WHOLE_PART_SUBPART = (1, 2, 3)
_APACHE = "Apache-2.0"


class UnknownArchitectureError(ValueError):
    """No architecture has this name; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    Attributes:
        name: Name in checkpoints, in the catalogue and on the command line.
        title: Title in manifests and messages.
        encoder: Name of the image encoder as its authors write it.
        licence: Licence of the checkpoints that the authors publish.
        summary: Use of the model, one sentence, for manifests that state none themselves. Empty for the architectures
            whose manifests older versions of this service read, because a summary needs format version 5.
        image_size: Side of the encoder's square input, in pixels. Prompts and masks have a frame of 1024 always.
        norm_epsilon: Epsilon of the layer norms in the decoder's transformer.
        score: Number that orders the masks of a prompt. Only EdgeSAM's authors take the stability score, because they
            do not train the IoU head.
        ambiguous: Outputs of the decoder that a single point gets.
        other: Outputs of the decoder among which the best one is the answer to all other prompts.
        fallback: Outputs, the best of which is the answer instead of output 0 where that one is not stable at ±0.05;
            empty for architectures without this choice.
        mask_decoder: Kind of mask decoder. That of SAM 2 also reads two maps of high resolution.
        resize: Way in which an image gets into the square: padded, or each axis with its own scale.
    """

    name: str
    title: str
    encoder: str
    licence: str
    summary: str = ""
    image_size: ImageSize = 1024
    norm_epsilon: float = 1e-5
    score: Score = "predicted_iou"
    ambiguous: tuple[int, ...] = _WHOLE_PART_SUBPART
    other: tuple[int, ...] = (0,)
    fallback: tuple[int, ...] = ()
    mask_decoder: MaskDecoder = "sam"
    resize: Resize = "letterbox"

    # The manifest's schema needs pydantic, which training on a borrowed machine lacks.
    @property
    def ranking(self) -> "Ranking":
        """The rule that orders the masks of a prompt, for the manifest."""
        from service.mask_rules import Ranking  # noqa: PLC0415 - see above

        if self.score == "stability":
            return Ranking()
        # The order of the official predictors, which know nothing of agreement with points.
        return Ranking(stability=0.0, predicted_iou=1.0, agreement=0.0)

    @property
    def auto_masks(self) -> "AutoMasks":
        """The outputs that a prompt gets when it does not say how many, for the manifest."""
        from service.mask_rules import AutoMasks  # noqa: PLC0415 - see above

        return AutoMasks(ambiguous=self.ambiguous, other=self.other, fallback=self.fallback)


def _efficientvit_sam(size: str, image_size: ImageSize, summary: str) -> Architecture:
    return Architecture(
        f"efficientvit-sam-{size.lower()}",
        f"EfficientViT-SAM-{size} (EfficientViT-{size}, two-way mask decoder)",
        f"EfficientViT-{size}",
        _APACHE,
        summary,
        image_size=image_size,
        norm_epsilon=1e-6,
    )


def _sam2(name: str, title: str, encoder: str, summary: str) -> Architecture:
    return Architecture(
        name,
        title,
        encoder,
        _APACHE,
        summary,
        fallback=_WHOLE_PART_SUBPART,
        mask_decoder="sam2",
        resize="stretch",
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture(
            "edgesam",
            "EdgeSAM (RepViT-M1, two-way mask decoder)",
            "RepViT-M1",
            "S-Lab License 1.0 (non-commercial)",
            score="stability",
            ambiguous=_ALL,
        ),
        Architecture(
            "edgesam-lite",
            "EdgeSAM-lite (EfficientNet-Lite2, two-way mask decoder)",
            "EfficientNet-Lite2",
            "that of this package",
            score="stability",
            ambiguous=_ALL,
        ),
        Architecture(
            "sam-vit-b",
            "SAM (ViT-B, two-way mask decoder)",
            "ViT-B",
            _APACHE,
            "The smallest of the three original SAM models: good masks, and seconds for an image on a CPU.",
        ),
        Architecture(
            "sam-vit-l",
            "SAM (ViT-L, two-way mask decoder)",
            "ViT-L",
            _APACHE,
            "The middle one of the three original SAM models, for machines with a GPU.",
        ),
        Architecture(
            "sam-vit-h",
            "SAM (ViT-H, two-way mask decoder)",
            "ViT-H",
            _APACHE,
            "The largest of the three original SAM models, for machines with a GPU.",
        ),
        Architecture(
            "mobile-sam",
            "MobileSAM (TinyViT-5M, two-way mask decoder)",
            "TinyViT-5M",
            _APACHE,
            "A small SAM for CPUs, distilled from ViT-H: good masks at the cost of a small encoder.",
        ),
        Architecture(
            "tiny-sam",
            "TinySAM (TinyViT-5M, two-way mask decoder)",
            "TinyViT-5M",
            _APACHE,
            "A small SAM for CPUs with MobileSAM's network, distilled from ViT-H as a whole.",
            other=_WHOLE_PART_SUBPART,
        ),
        Architecture(
            "repvit-sam",
            "RepViT-SAM (RepViT-M2.3, two-way mask decoder)",
            "RepViT-M2.3",
            _APACHE,
            "A convolutional SAM for CPUs, distilled from ViT-H.",
        ),
        _efficientvit_sam("L0", 512, "A fast SAM that sees images at 512 pixels, for CPUs."),
        _efficientvit_sam("L1", 512, "A SAM that sees images at 512 pixels, between L0 and L2 in speed and quality."),
        _efficientvit_sam("L2", 512, "A SAM that sees images at 512 pixels, the best one of that size."),
        _efficientvit_sam("XL0", 1024, "A large SAM, for machines with many cores or a GPU."),
        _efficientvit_sam("XL1", 1024, "The largest EfficientViT-SAM, for machines with many cores or a GPU."),
        _sam2(
            "edgetam",
            "EdgeTAM (RepViT-M1, mask decoder of SAM 2)",
            "RepViT-M1 (EdgeTAM)",
            "EdgeSAM's small encoder with the mask decoder of SAM 2, for CPUs.",
        ),
        _sam2(
            "sam2.1-tiny",
            "SAM 2.1 (Hiera-T, mask decoder of SAM 2)",
            "Hiera-T",
            "The smallest SAM 2.1: better masks than those of small encoders, for several times their time.",
        ),
        _sam2(
            "sam2.1-small",
            "SAM 2.1 (Hiera-S, mask decoder of SAM 2)",
            "Hiera-S",
            "A SAM 2.1 between tiny and base+ in speed and quality.",
        ),
        _sam2(
            "sam2.1-base-plus",
            "SAM 2.1 (Hiera-B+, mask decoder of SAM 2)",
            "Hiera-B+",
            "The SAM 2.1 for good masks on machines with many cores or a GPU.",
        ),
        _sam2(
            "sam2.1-large",
            "SAM 2.1 (Hiera-L, mask decoder of SAM 2)",
            "Hiera-L",
            "The largest SAM 2.1, for machines with a GPU.",
        ),
    )
}
DEFAULT_ARCHITECTURE = "edgesam"
"""Architecture of checkpoints that state none: EdgeSAM's official files."""


def architecture(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises:
        UnknownArchitectureError: No architecture has this name.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise UnknownArchitectureError(f"{name[:100]!r} is not a known architecture; there are {known}.") from None
