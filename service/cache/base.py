"""What a cache is: a few verbs, and the two ways of having nothing."""

from typing import Protocol, TypeVar

V = TypeVar("V")


class Cache(Protocol[V]):
    """Keeps values by key for a while.

    None means that this tier knows that it has none; CacheUnavailable that it could not be asked. `/embed` treats
    both as a miss, `/segment` answers 404 to the first and 503 to the second.
    """

    @property
    def tier(self) -> str:
        """Name of the tier, the label of its metrics."""
        ...

    async def get(self, key: str) -> V | None:
        """The value, whose time to live starts anew, or None. Counts as a look-up.

        Raises:
            CacheUnavailable: the tier could not be asked.
        """
        ...

    async def put(self, key: str, value: V) -> None:
        """Keep a value, in place of an older one under the same key.

        Raises:
            CacheUnavailable: the tier did not confirm that it took the value.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one.

        Raises:
            CacheUnavailable: the tier did not confirm it.
        """
        ...

    async def contains(self, key: str) -> bool:
        """Whether there is a value. Neither renews its time to live nor counts as a look-up.

        Raises:
            CacheUnavailable: the tier could not be asked.
        """
        ...

    async def renew(self, key: str) -> bool:
        """Start a value's time to live anew without reading it; False if there is none. No look-up.

        Raises:
            CacheUnavailable: the tier could not be asked.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what the tier itself owns; it is not used afterwards."""
        ...


class Codec(Protocol[V]):
    """Turns values into bytes and back. Runs in a worker thread, so it keeps no state."""

    def encode(self, value: V) -> bytes:
        """The bytes to store."""
        ...

    def decode(self, data: bytes) -> V:
        """The value again.

        Raises:
            CorruptValue: the bytes are not a valid value, whatever they are.
        """
        ...
