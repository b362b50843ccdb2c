"""Licences of models in words: whether they allow commercial use."""

import re
from typing import Final

# Identifiers of SPDX and titles, in lower case. Their texts allow every use.
_COMMERCIAL: Final = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unlicense",
        "apache license 2.0", "apache license, version 2.0", "mit license", "the unlicense",
    }
)  # fmt: skip
_NON_COMMERCIAL: Final = re.compile(r"non-?\s?commercial|\bcc[- ]by[- ]nc\b", re.IGNORECASE)
# An address or a remark may follow. Other words may restrict the licence.
_NAMED: Final = re.compile(r"(.+?)(?:,? (?:https?://\S+|\([^()]*\)))?", re.IGNORECASE)


def allows_commercial_use(licence: str) -> bool | None:
    """Return whether a licence allows commercial use; None if that is not known.

    Args:
        licence: Licence as a manifest states it: an identifier of SPDX, a title, or other words.
    """
    if _NON_COMMERCIAL.search(licence):
        return False
    named = _NAMED.fullmatch(licence.strip())
    return True if named is not None and named[1].lower() in _COMMERCIAL else None
