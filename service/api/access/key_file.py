"""The file of API keys (EDGESAM_API_KEYS_FILE): its format, and a thread that reads it again when it changes."""

import hashlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from service.api.access.keys import ApiKeys, Key
from service.api.access.policy import Quota, Role
from service.api.access.rate_limit import RateLimit
from service.inference.scheduling.fairness import Caller
from service.regular_files import read_regular_file
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 4 << 20  # some ten thousand keys
READ_EVERY_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 2.0

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class KeyFileError(ValueError):
    """The file of API keys cannot be used. The message gives the reason and quotes nothing of the file."""


class LimitsEntry(BaseModel):
    """Rate limit of one key for one quota, as the file has it."""

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
    """One key of the file. The file has only the hash of the key.

    Args:
        name: Name of the key in the log and in metrics; unique in the file.
        sha256: SHA-256 of the key, 64 lower-case hexadecimal digits.
        roles: Roles of the key, at least one.
        namespace: Namespace of the images that the key can use. None: a namespace of this key alone. "": the namespace
            of the keys in EDGESAM_API_KEYS.
        limits: Rate limits by quota.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    roles: Annotated[frozenset[Role], Field(min_length=1)]
    namespace: str | None = Field(None, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    limits: dict[Quota, LimitsEntry] = Field(default_factory=dict)

    def key(self) -> Key:
        """Return the rights that the entry grants."""
        namespace = self.name if self.namespace is None else self.namespace
        limits = {
            quota: RateLimit(per_s=limit.per_s, burst=limit.burst, at_once=limit.at_once)
            for quota, limit in self.limits.items()
        }
        return Key(Caller(self.name, namespace), self.roles, limits)


_ENTRIES: Final = TypeAdapter(list[KeyEntry])
_EMPTY_KEY_SHA256: Final = hashlib.sha256(b"").hexdigest()


def parse_entries(data: bytes) -> list[KeyEntry]:
    """Return the entries of a file of API keys.

    Args:
        data: Content of the file, JSON.

    Raises:
        KeyFileError: The content is no JSON list of entries, or two entries have the same name or key.
    """
    try:
        entries = _ENTRIES.validate_json(data)
    except ValidationError as error:
        # The message never contains the value: it may be a key that was written in place of its hash.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "/" + "/".join(str(part)[:64] for part in first["loc"])
        raise KeyFileError(f"{where}: {first['msg']} ({error.error_count()} findings)") from None
    for member in ("name", "sha256"):
        if len({getattr(entry, member) for entry in entries}) < len(entries):
            raise KeyFileError(f"two entries have the same {member}")
    alone = {entry.name for entry in entries if entry.namespace is None}
    if shared := alone & {entry.namespace for entry in entries}:
        raise KeyFileError(f"{min(shared)} is the name of a key without a namespace, and another key's namespace")
    if any(entry.sha256 == _EMPTY_KEY_SHA256 for entry in entries):
        raise KeyFileError("an entry has the hash of an empty key")
    return entries


def keys_by_digest(entries: Iterable[KeyEntry]) -> dict[bytes, Key]:
    """Return the rights of each key by its SHA-256, 32 bytes.

    Args:
        entries: Entries of the file.
    """
    return {bytes.fromhex(entry.sha256): entry.key() for entry in entries}


def read_key_file(path: Path, *, follows_links: bool = True) -> bytes:
    """Return the content of a key file. A pipe or a device is refused without waiting for it.

    Args:
        path: Path of the file.
        follows_links: Whether the last part of the path may be a symbolic link, as it is in a mounted Secret.

    Raises:
        KeyFileError: The path leads to no regular file, or the file is too large or cannot be read.
    """
    try:
        data = read_regular_file(path, MAX_FILE_BYTES, follows_links=follows_links)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror or 'it is not a file'}") from error
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data


class KeyFile:
    """Reads the file of API keys again when it changes, in a thread of its own.

    The thread reads the whole file each time and compares the content. So it does not depend on time stamps, and it
    works for Kubernetes, which swaps a link to the folder of a mounted Secret. While the file cannot be used, the known
    keys stay valid. The log and the metric `edgesam_api_keys_stale` report it.

    Args:
        path: Path of the file.
        keys: Known keys; those of the file are replaced there.
        metrics: Metrics of the process.
        read_every_s: Interval between two reads, in seconds.
    """

    def __init__(self, path: Path, keys: ApiKeys, metrics: Metrics, *, read_every_s: float = READ_EVERY_S) -> None:
        self._path = path
        self._keys = keys
        self._stale = metrics.api_keys_stale
        self._read_every_s = read_every_s
        self._loaded = b""
        self._rejected: bytes | None = None
        self._logged_error = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgesam-keys", daemon=True)

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            KeyFileError: The file cannot be used.
        """
        data = read_key_file(self._path)
        self._keys.replace(keys_by_digest(parse_entries(data)))
        self._loaded = data

    def start(self) -> None:
        """Start the thread that looks for changes."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. A thread that still waits for the file system after 2 s is left behind."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def reload(self) -> None:
        """Read the file, and take its keys over if the content has changed."""
        try:
            data = read_key_file(self._path)
            if data == self._loaded and not self._logged_error:
                return
            if data == self._rejected:
                return  # parsing the same megabytes in vain every second would delay every click
            self._rejected = data
            entries = parse_entries(data)
        except KeyFileError as error:
            self._stale.set(1)
            if self._logged_error != str(error):
                self._logged_error = str(error)
                logger.error("the file of API keys cannot be used, the keys before it stay: %s", error)
            return
        self._keys.replace(keys_by_digest(entries))
        self._loaded, self._rejected, self._logged_error = data, None, ""
        self._stale.set(0)
        logger.info("API keys read", extra={"keys": len(entries)})

    def _watch(self) -> None:
        while not self._closing.wait(self._read_every_s):
            self.reload()
