"""API keys: what each may do, the ring they hang on, and the file they are read from."""

import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from service.api.access.policy import ADMIN, EMBED, SEGMENT, Budget, Role
from service.api.access.rate_limit import RateLimit
from service.inference.scheduling.fairness import Caller
from service.regular_files import read_regular_file
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

ALL_ROLES: Final[frozenset[Role]] = frozenset({EMBED, SEGMENT, ADMIN})
MAX_FILE_BYTES: Final = 4 << 20  # some ten thousand keys
READ_EVERY_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 2.0

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class KeyFileError(ValueError):
    """The file of keys cannot be used; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """What somebody with this key may do.

    Args:
        caller: on whose behalf.
        roles: at least one.
        limits: by budget; what is missing has none.
    """

    caller: Caller
    roles: frozenset[Role]
    limits: Mapping[Budget, RateLimit] = field(default_factory=dict)


class LimitsEntry(BaseModel):
    """Bounds of one key on one kind of request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_s: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    burst: int | None = Field(None, ge=1, le=1_000_000)
    at_once: int | None = Field(None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Self:
        if self.burst is not None and self.per_s is None:
            raise ValueError("burst needs per_s")
        return self


class KeyEntry(BaseModel):
    """One key in the file, of which only the hash is there.

    Args:
        name: for the log; unique.
        sha256: of the key, lower-case hexadecimal.
        roles: what it may do.
        namespace: whose pictures it sees; None: of this key alone, "": those of keys from EDGESAM_API_KEYS.
        limits: by budget.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    roles: Annotated[frozenset[Role], Field(min_length=1)]
    namespace: str | None = Field(None, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    limits: dict[Budget, LimitsEntry] = Field(default_factory=dict)

    def key(self) -> Key:
        """What it grants."""
        namespace = self.name if self.namespace is None else self.namespace
        limits = {
            budget: RateLimit(per_s=limit.per_s, burst=limit.burst, at_once=limit.at_once)
            for budget, limit in self.limits.items()
        }
        return Key(Caller(self.name, namespace), self.roles, limits)


_ENTRIES: Final = TypeAdapter(list[KeyEntry])
_NO_KEY: Final = hashlib.sha256(b"").hexdigest()


def parse_entries(data: bytes) -> list[KeyEntry]:
    """The entries of a file of keys.

    Raises:
        KeyFileError: it is not a JSON list of entries, or two of them have the same name or key.
    """
    try:
        entries = _ENTRIES.validate_json(data)
    except ValidationError as error:
        # Never what was found there: somebody may have written a key in place of its hash.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "/" + "/".join(str(part)[:64] for part in first["loc"])
        raise KeyFileError(f"{where}: {first['msg']} ({error.error_count()} findings)") from None
    for member in ("name", "sha256"):
        if len({getattr(entry, member) for entry in entries}) < len(entries):
            raise KeyFileError(f"two entries have the same {member}")
    alone = {entry.name for entry in entries if entry.namespace is None}
    if shared := alone & {entry.namespace for entry in entries}:
        raise KeyFileError(f"{min(shared)} is the name of a key without a namespace, and another key's namespace")
    if any(entry.sha256 == _NO_KEY for entry in entries):
        raise KeyFileError("an entry has the hash of an empty key")
    return entries


def new_key() -> str:
    """A key nobody can guess: 256 random bits, and a prefix by which scanners find one that was published."""
    return f"esk_{secrets.token_urlsafe(32)}"


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. A plain hash: nobody can try 2^256 keys, and a slow one would slow each request down."""
    return hashlib.sha256(key).digest()


class KeyRing:
    """The keys that are known, by their SHA-256. Replaced as a whole, from any thread.

    Args:
        plain: keys as they are, of the setting; each may do everything, and they share one namespace.
        metrics: shows how many keys there are.
    """

    def __init__(self, plain: Iterable[str], metrics: Metrics) -> None:
        self._plain: dict[bytes, tuple[bytes, Key | None]] = {}
        for number, text in enumerate(plain, 1):
            digest = digest_of(text.encode())
            self._plain[digest] = digest, Key(Caller(f"#{number}", ""), ALL_ROLES)
        self._gauge = metrics.api_keys
        self.replace(())

    def replace(self, entries: Iterable[KeyEntry]) -> None:
        """Know these beside the plain ones, and no others any more."""
        read = {(digest := bytes.fromhex(entry.sha256)): (digest, entry.key()) for entry in entries}
        self._keys = {**self._plain, **read}
        self._gauge.set(len(self._keys))

    def find(self, given: bytes) -> Key | None:
        """What a key grants; None for an unknown one.

        The time it takes says nothing about the keys there are: what is looked up is the SHA-256 of what was sent,
        which nobody can steer, and the last comparison is one in constant time, for unknown ones too.
        """
        digest = digest_of(given)
        known, key = self._keys.get(digest, _NOBODY)
        return key if hmac.compare_digest(known, digest) else None


_NOBODY: Final[tuple[bytes, None]] = (bytes(32), None)


class KeyFile:
    """A file of entries, read again when it changes, by a thread of its own.

    It is read whole every time and compared, which needs no trust in time stamps and follows whatever its path leads
    to: Kubernetes swaps a link to the folder of a mounted Secret. A file that cannot be used leaves the keys as they
    are; the log and `edgesam_api_keys_stale` tell.

    Args:
        path: of the file.
        ring: gets the entries.
        metrics: shows whether the file can be used.
        read_every_s: seconds between two looks.
    """

    def __init__(self, path: Path, ring: KeyRing, metrics: Metrics, *, read_every_s: float = READ_EVERY_S) -> None:
        self._path = path
        self._ring = ring
        self._stale = metrics.api_keys_stale
        self._read_every_s = read_every_s
        self._seen = b""
        self._refused: bytes | None = None
        self._complaint = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgesam-keys", daemon=True)

    def load(self) -> None:
        """Read it for the first time.

        Raises:
            KeyFileError: it cannot be used.
        """
        data = read_key_file(self._path)
        self._ring.replace(parse_entries(data))
        self._seen = data

    def start(self) -> None:
        """Begin to look for changes."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that a file system keeps waiting is left behind."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def look(self) -> None:
        """Take over what has changed."""
        try:
            data = read_key_file(self._path)
            if data == self._seen and not self._complaint:
                return
            if data == self._refused:
                return  # megabytes that were parsed in vain a second ago, and held up every click
            self._refused = data
            entries = parse_entries(data)
        except KeyFileError as error:
            self._stale.set(1)
            if self._complaint != str(error):
                self._complaint = str(error)
                logger.error("the file of API keys cannot be used, the keys before it stay: %s", error)
            return
        self._ring.replace(entries)
        self._seen, self._refused, self._complaint = data, None, ""
        self._stale.set(0)
        logger.info("API keys read", extra={"keys": len(entries)})

    def _watch(self) -> None:
        while not self._closing.wait(self._read_every_s):
            self.look()


def read_key_file(path: Path, *, follows_links: bool = True) -> bytes:
    """The content of a regular file of bounded size; a pipe is not waited for.

    Args:
        path: of the file.
        follows_links: whether the last part of the path may be a symbolic link, as it is in a mounted Secret.

    Raises:
        KeyFileError: it is none, or cannot be read.
    """
    try:
        data = read_regular_file(path, MAX_FILE_BYTES, follows_links=follows_links)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror or 'it is not a file'}") from error
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data
