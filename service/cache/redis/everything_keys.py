"""Keys of everything results in Redis. A fixed number of them belongs to each image, so that a deletion names them all.

The result of a region or another variant of an image, and of each set of parameters, has one of the keys of the image
itself. Two results can have the same key. Then the later one replaces the earlier one, which is computed again when it
is asked for. So no index of results is needed, which Redis could evict before a deletion.
"""

import hashlib
from typing import Final

from service.sam.embedding import plain_key

# With five results of an image, two of them have the same key in 8 % of cases. The names of all keys take 20 kB in the
# command of a deletion.
KEYS_PER_IMAGE: Final = 128


def result_key(name: str, image_key: str) -> str:
    """Return the key of one result, in the slot of the image's own key in a cluster.

    Args:
        name: Text that names the result: image, variant, model and parameters.
        image_key: Cache key of the image or of its variant.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return _numbered(image_key, int.from_bytes(digest) % KEYS_PER_IMAGE)


def result_keys(image_key: str) -> list[str]:
    """Return the keys of all results of an image, its variants and its regions.

    Args:
        image_key: Cache key of the image or of its variant.
    """
    return [_numbered(image_key, number) for number in range(KEYS_PER_IMAGE)]


def _numbered(image_key: str, number: int) -> str:
    return f"edgesam:everything:{{{plain_key(image_key)}}}{number}"
