"""The image encoders in PyTorch, by the name of their architecture.

A new encoder needs one module with an `ImageEncoder`, one entry here, and one in `model_store.architectures`.
"""

from collections.abc import Callable, Mapping
from functools import partial

from model_store.architectures import UnknownArchitectureError
from model_store.hiera_shape import HIERA_SHAPES
from model_store.network.encoders.efficientvit.encoder import SIZES as EFFICIENTVIT_SIZES
from model_store.network.encoders.efficientvit.encoder import EfficientViTEncoder
from model_store.network.encoders.hiera.encoder import HieraEncoder
from model_store.network.encoders.image_encoder import ImageEncoder
from model_store.network.encoders.lite_encoder import LiteEncoder
from model_store.network.encoders.repvit.edgetam_encoder import EdgeTAMEncoder
from model_store.network.encoders.repvit.encoder import RepViTEncoder
from model_store.network.encoders.repvit.repvit_sam_encoder import RepViTSAMEncoder
from model_store.network.encoders.tiny_vit.encoder import TinyViTEncoder
from model_store.network.encoders.vit_encoder import ViTEncoder
from model_store.vit_shape import VIT_B, VIT_H, VIT_L

ENCODERS: Mapping[str, Callable[[], ImageEncoder]] = {
    "edgesam": RepViTEncoder,
    "edgesam-lite": LiteEncoder,
    "mobile-sam": TinyViTEncoder,
    "tiny-sam": TinyViTEncoder,
    "repvit-sam": RepViTSAMEncoder,
    **{f"efficientvit-sam-{size.lower()}": partial(EfficientViTEncoder, size) for size in EFFICIENTVIT_SIZES},
    "sam-vit-b": partial(ViTEncoder, VIT_B),
    "sam-vit-l": partial(ViTEncoder, VIT_L),
    "sam-vit-h": partial(ViTEncoder, VIT_H),
    "edgetam": EdgeTAMEncoder,
    **{name: partial(HieraEncoder, shape) for name, shape in HIERA_SHAPES.items()},
}


def build_encoder(name: str) -> ImageEncoder:
    """Return the image encoder of an architecture, in train mode with initial weights.

    Args:
        name: Name of the architecture.

    Raises:
        UnknownArchitectureError: No network has this name.
    """
    try:
        build = ENCODERS[name]
    except KeyError:
        known = ", ".join(ENCODERS)
        raise UnknownArchitectureError(f"{name!r} is not a known architecture; there are {known}.") from None
    return build()
