"""Names of the files of the disk tier. They are hashes: no text of a client is part of a path.

The first part of a name is of the image, the second of the variant, and the third of the whole key with the model. So
the files of an image, of all its variants and of all models begin alike, and a deletion needs no index of them.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from service.sam.embedding import is_variant_key, plain_key

SUFFIX: Final = ".embedding"
TEMPORARY_SUFFIX: Final = ".new"
_NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{32}\.embedding", re.ASCII)
_TEMPORARY: Final = re.compile(_NAME.pattern + r"\.[0-9a-f]{16}\.new", re.ASCII)
_SHARD: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files of one image in a namespace, or of one variant of it, of all models.

    Args:
        image: Hash of namespace and image, 32 hexadecimal digits.
        variant: Hash of the options by which the image is read, 16 hexadecimal digits; None for all variants.
    """

    image: str
    variant: str | None

    @classmethod
    def deleted_by(cls, key: str) -> Self:
        """Return the files that the deletion of a key removes.

        Args:
            key: Cache key of the image, of any model, or of a variant of it.
        """
        return cls(_image(key), _variant(key) if is_variant_key(key) else None)

    @property
    def shard(self) -> str:
        """Name of the subfolder that holds the files."""
        return self.image[:2]

    @property
    def prefix(self) -> str:
        """Beginning of the names of the files."""
        return f"{self.image}-" if self.variant is None else f"{self.image}-{self.variant}-"

    @property
    def with_all_variants(self) -> "ImageFiles":
        """The files of the image with all its variants."""
        return ImageFiles(self.image, None)


def file_name(key: str) -> str:
    """Return the name of the file of an embedding.

    Args:
        key: Cache key of the image, see `service.sam.embedding.embedding_key`.
    """
    return f"{_image(key)}-{_variant(key)}-{_hash(key, 16)}{SUFFIX}"


def files_of(name: str) -> ImageFiles:
    """Return the image and the variant of a file, from its name."""
    image, variant, _ = name.split("-", 2)
    return ImageFiles(image, variant)


def shard_of(name: str) -> str:
    """Return the name of the subfolder of a file, from its name."""
    return name[:2]


def is_file_name(text: str) -> bool:
    """Return whether a text has the form of a name from `file_name`."""
    return _NAME.fullmatch(text) is not None


def is_temporary_name(text: str) -> bool:
    """Return whether a text has the form of the name of a file that is being written."""
    return _TEMPORARY.fullmatch(text) is not None


def is_shard_name(text: str) -> bool:
    """Return whether a text has the form of the name of a subfolder."""
    return _SHARD.fullmatch(text) is not None


def _image(key: str) -> str:
    """Return the hash of namespace and image. The key of the image itself ends with both, behind model and format."""
    return _hash(plain_key(key).split(":", 4)[4], 16)


def _variant(key: str) -> str:
    return _hash(key.partition("}")[2] if is_variant_key(key) else "", 8)


def _hash(text: str, nbytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=nbytes).hexdigest()
