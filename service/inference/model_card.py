"""The model card of an artifact that has it as a file."""

import logging
from pathlib import Path
from typing import Final

from service.manifest import Manifest
from service.regular_files import read_regular_file

logger = logging.getLogger(__name__)

MAX_CARD_BYTES: Final = 1 << 20


def read_model_card(directory: Path, manifest: Manifest) -> bytes | None:
    """Return the model card; None if the manifest names no file, or if it cannot be read. Blocking.

    The card is no part of the model, so a model without its card is served. A link is not followed: what it leads to
    would be shown to everybody.

    Args:
        directory: Folder of the artifact.
        manifest: Manifest of the artifact.
    """
    if not manifest.card or is_address(manifest.card):
        return None
    path = directory / manifest.card
    try:
        content = read_regular_file(path, MAX_CARD_BYTES, follows_links=False)
    except OSError as error:
        logger.warning("the model card %s cannot be read (%s)", path, error)
        return None
    if len(content) > MAX_CARD_BYTES:
        logger.warning("the model card %s has more than %d bytes and is not shown", path, MAX_CARD_BYTES)
        return None
    return content


def is_address(card: str) -> bool:
    """Return whether `card` of a manifest is an address, and not the name of a file of the artifact."""
    return "://" in card
