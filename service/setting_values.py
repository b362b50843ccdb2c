"""How the values of single settings are read and checked. `service.settings` applies these functions."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

_LEAST_KEY_LENGTH = 16
_REDIS_SCHEMES = (
    *("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://"),
    *("redis+sentinel://", "rediss+sentinel://"),
)


def separated_by_commas(names: object) -> object:
    """Return the names of a text such as `cvat,roboflow`; other values as they are."""
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


def separated_as_in_path(folders: object) -> object:
    """Return the folders of a text: a JSON list, or separated by `os.pathsep`. A single path becomes a list.

    Raises:
        ValueError: The text begins like a JSON list and is none.
    """
    if isinstance(folders, Path):
        return [folders]
    if not isinstance(folders, str):
        return folders
    if folders.lstrip().startswith("["):
        return json.loads(folders)
    if Path(folders).is_dir():  # its name may contain the separator
        return [folders]
    return [folder for folder in folders.split(os.pathsep) if folder]


def label_studio_address(url: str) -> str:
    """Return the address of a Label Studio server if it is one.

    Raises:
        ValueError: It has another scheme, no host, or a part that no address of a server has.
    """
    parts = urlsplit(url)
    is_address = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    has_more = parts.query or parts.fragment or "@" in parts.netloc or not url.isprintable() or " " in url
    if has_more or not is_address:
        raise ValueError("label_studio_url must be like http://HOST:8080, without a user name, query or fragment")
    return url


def redis_address(url: SecretStr) -> SecretStr:
    """Return the address of a Redis if its scheme is known.

    Raises:
        ValueError: The scheme is another.
    """
    if not url.get_secret_value().startswith(_REDIS_SCHEMES):
        raise ValueError(f"redis_url must start with one of {', '.join(_REDIS_SCHEMES)}")
    return url


def otlp_address(url: str) -> str:
    """Return the address of an OTLP collector if it is one of HTTP.

    Raises:
        ValueError: The scheme is another.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("otlp_endpoint must start with http:// or https://: traces are sent as OTLP over HTTP")
    return url


def long_keys(keys: list[SecretStr]) -> list[SecretStr]:
    """Return API keys if each is long enough.

    Raises:
        ValueError: A key is too short to be a secret.
    """
    if any(len(key.get_secret_value()) < _LEAST_KEY_LENGTH for key in keys):
        raise ValueError(f"api_keys: a key has at least {_LEAST_KEY_LENGTH} characters")
    return keys
