"""API keys: the rights of each key, and the set of keys that are known to the process."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from service.api.access.policy import ADMIN, EMBED, SEGMENT, Quota, Role
from service.api.access.rate_limit import RateLimit
from service.inference.scheduling.fairness import Caller
from service.telemetry.metrics import Metrics
from service.telemetry.usage import UsageMetrics

ALL_ROLES: Final[frozenset[Role]] = frozenset({EMBED, SEGMENT, ADMIN})


@dataclass(frozen=True, slots=True)
class Key:
    """The rights of one API key.

    Args:
        caller: Name and namespace that requests with the key have.
        roles: Roles of the key, at least one.
        limits: Rate limits by quota. A quota that is missing has no limit.
    """

    caller: Caller
    roles: frozenset[Role]
    limits: Mapping[Quota, RateLimit] = field(default_factory=dict)


def new_key() -> str:
    """Return a new random API key: 256 bits, and a prefix by which secret scanners find a published key."""
    return f"esk_{secrets.token_urlsafe(32)}"


def digest_of(key: bytes) -> bytes:
    """Return the SHA-256 of a key, 32 bytes.

    A plain hash is enough: trying 2^256 keys is impossible, and a slow hash would slow each request down.
    """
    return hashlib.sha256(key).digest()


class ApiKeys:
    """The known API keys by their SHA-256. Any thread may replace them as a whole.

    Args:
        plain: Keys of the setting EDGESAM_API_KEYS, in plain text. Each has every role, and they share one namespace.
        metrics: Metrics of the process; the number of known keys is set there.
        usage: Usage of the keys; None if it is not counted.
    """

    def __init__(self, plain: Iterable[str], metrics: Metrics, usage: UsageMetrics | None = None) -> None:
        self.usage = usage
        self._plain: dict[bytes, tuple[bytes, Key | None]] = {}
        for number, text in enumerate(plain, 1):
            digest = digest_of(text.encode())
            self._plain[digest] = digest, Key(Caller(f"#{number}", ""), ALL_ROLES)
        self._gauge = metrics.api_keys
        self.replace({})

    def replace(self, keys: Mapping[bytes, Key]) -> None:
        """Replace all keys but the plain ones.

        Args:
            keys: New keys by their SHA-256, as from `digest_of`.
        """
        self._keys = {**self._plain, **{digest: (digest, key) for digest, key in keys.items()}}
        self._gauge.set(len(self._keys))
        if self.usage is not None:
            for _, key in self._keys.values():
                if key is not None:
                    self.usage.of(key.caller.name)

    def find(self, given: bytes) -> Key | None:
        """Return the rights of a key; None for an unknown one.

        The duration of the look-up reveals nothing about the known keys. It uses the SHA-256 of the given bytes, which
        no client can choose. The last comparison takes constant time, also for unknown keys.

        Args:
            given: API key as the client sent it.
        """
        digest = digest_of(given)
        known, key = self._keys.get(digest, _UNKNOWN)
        return key if hmac.compare_digest(known, digest) else None


_UNKNOWN: Final[tuple[bytes, None]] = (bytes(32), None)
