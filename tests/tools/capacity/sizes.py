"""Memory that an image of a model takes in each tier."""

from dataclasses import dataclass
from pathlib import Path

from service.manifest import load_manifest


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Sizes of an image with float16 and the decoder in C, in MiB.

    Attributes:
        memory_mib: Image state in a memory tier.
        redis_mib: Embedding in Redis.
    """

    memory_mib: float
    redis_mib: float


ONE_MAP = ImageSizes(memory_mib=5.0, redis_mib=2.0)
THREE_MAPS = ImageSizes(memory_mib=11.0, redis_mib=8.0)


def image_sizes(model: Path) -> ImageSizes:
    """Return the sizes of an image of a model.

    Args:
        model: Folder of the artifact.

    Source: docs/explanation/sam2.md, section "What the cache keeps".
    """
    return THREE_MAPS if load_manifest(model).has_high_res else ONE_MAP
