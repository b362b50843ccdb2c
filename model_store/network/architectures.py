"""The registry of architectures: each is an image encoder with SAM's prompt encoder and mask decoder.

A new encoder needs one module with an `ImageEncoder` and one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.network.encoders.image_encoder import ImageEncoder
from model_store.network.encoders.lite_encoder import LiteEncoder
from model_store.network.encoders.repvit_encoder import RepViTEncoder


class UnknownArchitectureError(ValueError):
    """No architecture has this name; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    Attributes:
        name: Name in checkpoints and on the command line.
        title: Title in manifests and messages.
        encoder: Class of the image encoder, which is built without arguments.
    """

    name: str
    title: str
    encoder: type[ImageEncoder]


ARCHITECTURES: Mapping[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture("edgesam", "EdgeSAM (RepViT-M1, two-way mask decoder)", RepViTEncoder),
        Architecture("edgesam-lite", "EdgeSAM-lite (EfficientNet-Lite2, two-way mask decoder)", LiteEncoder),
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
        raise UnknownArchitectureError(f"{name!r} is not a known architecture; there are {known}.") from None
