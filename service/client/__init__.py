"""Python client of the EdgeSAM inference service.

It is a part of the service's package, `service.client`, and a package of its own, `edgesam_client`
(`pip install ./service/client`). It imports nothing else of the service and needs httpx, NumPy and Pillow.

    from edgesam_client import Client

    with Client("http://127.0.0.1:8000") as client:
        image = client.embed("photo.jpg")
        cat = client.segment(image, points=[(610, 420), (200, 90)], labels=[1, 0]).best
        cat.pixels  # (H, W) bool

The command line (`edgesam segment`, `edgesam embed`, `edgesam-client`, `python -m service.client`) segments objects, or
embeds a folder of images. It also needs
typer and rich.
"""

from .annotations import AnnotatedImage, AnnotatedObject, coco_dataset, labelme_document, yolo_files
from .async_client import AsyncClient
from .blocking_client import Client
from .crops import Crops
from .errors import (
    Busy,
    ClientError,
    EmbeddingNotFound,
    MaskNotFound,
    ModelNotFound,
    PictureRefused,
    Problem,
    PromptRefused,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from .everything import (
    Everything,
    EverythingAdvanced,
    EverythingDropped,
    EverythingEvent,
    EverythingFound,
    EverythingMask,
    EverythingOptions,
    EverythingStarted,
)
from .soft_masks import SoftMask
from .values import Embedded, Mask, Model, Prompt, Segmentation, Timing
from .version import __version__
from .waiting import Waiting

__all__ = [
    "AnnotatedImage",
    "AnnotatedObject",
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Crops",
    "Embedded",
    "EmbeddingNotFound",
    "Everything",
    "EverythingAdvanced",
    "EverythingDropped",
    "EverythingEvent",
    "EverythingFound",
    "EverythingMask",
    "EverythingOptions",
    "EverythingStarted",
    "Mask",
    "MaskNotFound",
    "Model",
    "ModelNotFound",
    "PictureRefused",
    "Problem",
    "Prompt",
    "PromptRefused",
    "Segmentation",
    "SoftMask",
    "Timing",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
    "Waiting",
    "__version__",
    "coco_dataset",
    "labelme_document",
    "yolo_files",
]
