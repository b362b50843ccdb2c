"""The registry of architectures: which image encoder stands before SAM's prompt encoder and mask decoder.

A new encoder is one module with an `ImageEncoder` and one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.network.image_encoder import ImageEncoder
from model_store.network.lite_encoder import LiteEncoder
from model_store.network.repvit_encoder import RepViTEncoder


class UnknownArchitectureError(ValueError):
    """No architecture has this name; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: Its name in checkpoints, on the command line and here.
        title: What manifests and people are told.
        encoder: Class of its image encoder, which is built without arguments.
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
"""That of checkpoints which do not say: EdgeSAM's official files."""


def architecture(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises:
        UnknownArchitectureError: There is none.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise UnknownArchitectureError(f"{name!r} is no architecture that is known here; there are {known}.") from None
