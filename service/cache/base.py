"""The interface of a cache tier, and of the codec that converts its values to bytes."""

from typing import Protocol, TypeVar

V = TypeVar("V")


class Cache(Protocol[V]):
    """A cache tier: values by key, for a limited time.

    None means that the tier has no value. CacheUnavailable means that the tier could not be asked. `/embed` treats both
    as a miss; `/segment` answers 404 to the first and 503 to the second.
    """

    @property
    def tier(self) -> str:
        """Name of the tier, used as label of its metrics."""
        ...

    async def get(self, key: str) -> V | None:
        """Return the value and restart its time to live; None if there is none. Counts as a look-up.

        Raises:
            CacheUnavailable: The tier could not be asked.
        """
        ...

    async def put(self, key: str, value: V) -> None:
        """Store a value, in place of an older one under the same key.

        Raises:
            CacheUnavailable: The tier did not confirm that it stored the value.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Delete a value and return whether there was one.

        Raises:
            CacheUnavailable: The tier did not confirm the deletion.
        """
        ...

    async def contains(self, key: str) -> bool:
        """Return whether there is a value. This neither renews its time to live nor counts as a look-up.

        Raises:
            CacheUnavailable: The tier could not be asked.
        """
        ...

    async def renew(self, key: str) -> bool:
        """Restart the time to live of a value without reading it; False if there is none. No look-up.

        Raises:
            CacheUnavailable: The tier could not be asked.
        """
        ...

    async def aclose(self) -> None:
        """Close what the tier owns. It is not used afterwards."""
        ...


class Codec(Protocol[V]):
    """Conversion between values and bytes. It runs in worker threads, so it keeps no state."""

    def encode(self, value: V) -> bytes:
        """Return the bytes to store."""
        ...

    def decode(self, data: bytes) -> V:
        """Return the value.

        Raises:
            CorruptValue: The bytes are not a valid value.
        """
        ...
