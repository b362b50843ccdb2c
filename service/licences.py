"""Licences of models in words: whether they allow commercial use."""

import re
from typing import Final

# Identifiers of SPDX, in lower case. Their texts allow every use.
_COMMERCIAL: Final = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unlicense"}
)
_NON_COMMERCIAL: Final = re.compile(r"non-?\s?commercial|\bcc[- ]by[- ]nc\b", re.IGNORECASE)
# An address or a remark may follow the identifier. Other words may restrict it.
_IDENTIFIER: Final = re.compile(r"([a-z0-9][a-z0-9.+-]*)(?:,? (?:https?://\S+|\([^()]*\)))?", re.IGNORECASE)


def allows_commercial_use(licence: str) -> bool | None:
    """Return whether a licence allows commercial use; None if that is not known.

    Args:
        licence: Licence as a manifest states it: an identifier of SPDX, or words.
    """
    if _NON_COMMERCIAL.search(licence):
        return False
    identifier = _IDENTIFIER.fullmatch(licence.strip())
    return True if identifier is not None and identifier[1].lower() in _COMMERCIAL else None
