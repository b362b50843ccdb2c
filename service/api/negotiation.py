"""Content negotiation: the Accept and Accept-Encoding headers of a request (RFC 9110, 12.5)."""

import re
from collections.abc import Sequence
from typing import Final

_GZIP: Final = re.compile(r"(?i)\s*gzip\s*(;\s*q=(1(\.0*)?|0\.\d*[1-9]\d*)\s*)?")


def preferred(accept_header: str, offered: Sequence[str]) -> str | None:
    """Return the offered media type that the client prefers.

    Args:
        accept_header: Value of Accept; empty if the request has none.
        offered: Media types in the order in which the service prefers them, for a tie.

    Returns:
        One of `offered`; None when the client takes none of them.
    """
    ranges = [_media_range(part) for part in accept_header.split(",") if part.strip()]
    if not ranges:
        return offered[0]
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: qualities[media_type])
    return best if qualities[best] > 0 else None


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether the client takes gzip, as far as browsers and proxies use the header.

    Args:
        accept_encoding: Value of Accept-Encoding; empty if the request has none.
    """
    return any(_GZIP.fullmatch(part) for part in accept_encoding.split(","))


def _media_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality of the most specific range that matches."""
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == candidate]
        if found:
            return max(found)
    return 0.0
