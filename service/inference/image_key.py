"""The cache keys of one image and of its masks."""

from dataclasses import dataclass, field

from service.sam.embedding import embedding_key, mask_key, model_of_key


@dataclass(frozen=True, slots=True)
class ImageKey:
    """An image in the caches, named by its id, its namespace, the model and the number format of its tokens.

    Args:
        image_id: Id of the image, see `service.sam.image_id`.
        namespace: Namespace of the API key that uploaded the image; "" without API keys.
        fingerprint: Fingerprint of the served model.
        dtype: Number format of the tokens, `float16`, `float32` or `int8`.
    """

    image_id: str
    namespace: str
    fingerprint: str
    dtype: str
    cache_key: str = field(init=False)
    """Cache key of the image's embedding."""

    def __post_init__(self) -> None:
        cache_key = embedding_key(self.image_id, self.fingerprint, self.dtype, self.namespace)
        object.__setattr__(self, "cache_key", cache_key)

    def mask_key(self, mask_id: str) -> str:
        """Return the cache key of one of the image's masks."""
        return mask_key(self.cache_key, mask_id)


def is_of_model(fingerprint: str, key: str) -> bool:
    """Return whether a cache key is that of an image or mask of the model with this fingerprint."""
    return model_of_key(key)[0] == fingerprint
