"""The service's Python client; of `service` it needs nothing, of packages httpx, NumPy and Pillow.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        picture = client.embed("photo.jpg")
        cat = client.segment(picture, points=[(610, 420), (200, 90)], labels=[1, 0]).best
        cat.pixels  # (H, W) bool

`python -m service.client` cuts out an object, and embeds folders ahead of a labelling session.
"""

from service.client.clients import AsyncClient, Client
from service.client.errors import (
    Busy,
    ClientError,
    EmbeddingNotFound,
    MaskNotFound,
    PictureRefused,
    Problem,
    PromptRefused,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from service.client.values import Embedded, Mask, Model, Prompt, Segmentation, Timing

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Embedded",
    "EmbeddingNotFound",
    "Mask",
    "MaskNotFound",
    "Model",
    "PictureRefused",
    "Problem",
    "Prompt",
    "PromptRefused",
    "Segmentation",
    "Timing",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
]
